//! The bench's guests: each attests anew, over a connection of its own, and fetches one key.
//!
//! `releases URL RESOURCE COUNT CONCURRENCY` prints how long all took, then the median and the 99th
//! percentile of one, then the processor time of this program: in seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use keys::{HttpSettings, Kbs, KeySource as _, SampleAttester};
use seal::name::ResourceUri;
use tokio::task::JoinSet;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, resource, count, concurrency] = arguments.as_slice() else {
        bail!("usage: releases URL RESOURCE COUNT CONCURRENCY");
    };
    let (count, concurrency): (usize, usize) = (count.parse()?, concurrency.parse()?);
    let guests = Arc::new(Guests {
        url: url.clone(),
        resource: ResourceUri::parse(resource)?,
        left: AtomicUsize::new(count),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (wall, mut each) = runtime.block_on(async {
        let started = Instant::now();
        let mut workers = JoinSet::new();
        for _ in 0..concurrency {
            workers.spawn(Arc::clone(&guests).work());
        }
        let mut each = Vec::with_capacity(count);
        while let Some(done) = workers.join_next().await {
            each.extend(done??);
        }
        anyhow::Ok((started.elapsed(), each))
    })?;
    ensure!(each.len() == count && count > 0, "{} of {count} releases", each.len());
    each.sort_unstable();
    // The smallest value that so many percent of all do not exceed.
    let percentile = |percent: usize| each[(count * percent).div_ceil(100) - 1].as_secs_f64();
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu = Duration::try_from(cpu).context("processor time")?.as_secs_f64();
    println!("{:.6} {:.6} {:.6} {cpu:.6}", wall.as_secs_f64(), percentile(50), percentile(99));
    Ok(())
}

struct Guests {
    url: String,
    resource: ResourceUri,
    left: AtomicUsize,
}

impl Guests {
    /// One guest after the other, while there are any.
    async fn work(self: Arc<Self>) -> Result<Vec<Duration>> {
        let take = |left: usize| left.checked_sub(1);
        let mut took = Vec::new();
        while self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            let started = Instant::now();
            let source = Kbs::new(&self.url, Box::new(SampleAttester), &HttpSettings::default())?;
            let key = source.release(&self.resource).await?;
            ensure!(!key.is_empty(), "an empty key");
            took.push(started.elapsed());
        }
        Ok(took)
    }
}
