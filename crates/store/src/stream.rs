//! The bytes of one range, counted and timed.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use reqwest::Response;
use tokio::time::{Instant, Sleep};

use crate::Error;
use crate::client::{self, Limits};
use crate::error::Cause;

/// The slowest server that is put up with, in bytes per second, on top of the read timeout. The
/// read timeout alone lets a server that sends one byte every 29 s hold a download for years.
pub(crate) const RATE_MIN: u64 = 64 * 1024;

type Inner = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// The bytes of one range: exactly as many as were asked for, or an error. Over HTTP each item is a
/// frame as the socket delivered it, not copied. After an error or the end it yields nothing more.
///
/// Only time spent waiting for the server counts against it, not time in which the reader does
/// something else.
pub struct ObjectStream {
    inner: Inner,
    address: String,
    remaining: u64,
    /// None for a local disk, which is not a server that could starve us.
    patience: Option<Patience>,
    ended: bool,
}

impl ObjectStream {
    pub(crate) fn new(
        inner: Inner,
        address: String,
        range: &Range<u64>,
        read_timeout: Option<Duration>,
    ) -> Self {
        let remaining = range.end.saturating_sub(range.start);
        let patience = read_timeout.map(|limit| Patience::new(limit, remaining));
        Self { inner, address, remaining, patience, ended: false }
    }

    /// The body of an answer whose head was checked.
    pub(crate) fn of_response(
        response: Response,
        address: String,
        range: &Range<u64>,
        limits: Limits,
    ) -> Self {
        Self::new(Box::pin(client::frames(response)), address, range, Some(limits.silence))
    }

    /// No bytes: there is nothing to ask a server for.
    pub(crate) fn empty(address: String) -> Self {
        Self::new(Box::pin(futures::stream::empty()), address, &(0..0), None)
    }

    /// Bytes that are still to come.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    fn end(&mut self, error: Option<Error>) -> Poll<Option<Result<Bytes, Error>>> {
        self.ended = true;
        Poll::Ready(error.map(|error| Err(error.at(&self.address))))
    }
}

impl Stream for ObjectStream {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        loop {
            let item = match this.inner.poll_next_unpin(cx) {
                Poll::Ready(item) => item,
                Poll::Pending => {
                    let Some(patience) = &mut this.patience else { return Poll::Pending };
                    let cause = ready!(patience.poll_waiting(cx));
                    return this.end(Some(Error::Timeout { object: String::new(), cause }));
                }
            };
            if let Some(patience) = &mut this.patience {
                patience.arrived();
            }
            match item {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => match this.remaining.checked_sub(bytes.len() as u64) {
                    Some(remaining) => {
                        this.remaining = remaining;
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                    None => {
                        return this
                            .end(Some(Error::protocol("the server sent more than was asked for")));
                    }
                },
                Some(Err(error)) => return this.end(Some(error)),
                None if this.remaining > 0 => {
                    let cause =
                        Cause::new(format!("the body ended {} bytes early", this.remaining));
                    return this.end(Some(Error::Network { object: String::new(), cause }));
                }
                None => return this.end(None),
            }
        }
    }
}

impl std::fmt::Debug for ObjectStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectStream")
            .field("address", &self.address)
            .field("remaining", &self.remaining)
            .finish()
    }
}

/// How long to wait for the next bytes, and for all of them together. The clock runs only from "not
/// yet" to the next arrival.
struct Patience {
    each: Duration,
    left: Duration,
    since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl Patience {
    fn new(each: Duration, bytes: u64) -> Self {
        let left = each.saturating_add(Duration::from_secs(bytes / RATE_MIN));
        Self { each, left, since: None, timer: Box::pin(tokio::time::sleep(each)) }
    }

    /// Ready with the reason when a limit is met.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        if self.since.is_none() {
            let now = Instant::now();
            self.since = Some(now);
            self.timer.as_mut().reset(now + self.each.min(self.left));
        }
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(Cause::new(match self.left < self.each {
            true => "fewer than 64 KiB arrived per second".to_owned(),
            false => format!("nothing arrived for {:?}", self.each),
        }))
    }

    fn arrived(&mut self) {
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    const SILENCE: Duration = Duration::from_secs(30);

    /// A server that sends `piece` bytes, for ever, each after a pause.
    fn server(piece: usize, pause: Duration) -> Inner {
        Box::pin(stream::unfold((), move |()| async move {
            tokio::time::sleep(pause).await;
            Some((Ok(Bytes::from(vec![0; piece])), ()))
        }))
    }

    async fn take(inner: Inner, bytes: u64) -> (u64, Option<Error>, Duration) {
        let since = Instant::now();
        let mut stream = ObjectStream::new(inner, "x".to_owned(), &(0..bytes), Some(SILENCE));
        let mut got = 0;
        while got < bytes {
            match stream.next().await {
                Some(Ok(frame)) => got += frame.len() as u64,
                Some(Err(error)) => return (got, Some(error), since.elapsed()),
                None => break,
            }
        }
        (got, None, since.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_after_the_read_timeout() {
        let (got, error, time) = take(Box::pin(stream::pending()), 8 << 20).await;
        assert!(matches!(error, Some(Error::Timeout { .. })), "{error:?}");
        assert_eq!((got, time.as_secs()), (0, 30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_ends_when_its_total_is_spent() {
        let (_, error, time) = take(server(1, Duration::from_secs(29)), 8 << 20).await;
        assert!(matches!(error, Some(Error::Timeout { .. })), "{error:?}");
        assert!(time <= SILENCE + Duration::from_secs((8 << 20) / RATE_MIN), "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_but_steady_server_is_put_up_with() {
        let (got, error, _) = take(server(65_536, Duration::from_secs(1)), 8 << 20).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(got, 8 << 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_not_the_servers_fault() {
        let inner = server(1 << 20, Duration::from_millis(10));
        let mut stream = ObjectStream::new(inner, "x".to_owned(), &(0..4 << 20), Some(SILENCE));
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(1_000)).await;
            assert!(matches!(stream.next().await, Some(Ok(_))));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn more_or_less_than_asked_for_is_an_error() {
        let frames = |sizes: &[usize]| -> Inner {
            let frames: Vec<_> = sizes.iter().map(|size| Ok(Bytes::from(vec![0; *size]))).collect();
            Box::pin(stream::iter(frames))
        };
        for (sizes, transient) in [(&[5, 6][..], false), (&[11], false), (&[9], true), (&[], true)]
        {
            let stream = ObjectStream::new(frames(sizes), "x".to_owned(), &(0..10), Some(SILENCE));
            let errors: Vec<_> = stream.filter_map(async |item| item.err()).collect().await;
            assert!(
                matches!(&errors[..], [error] if error.is_transient() == transient),
                "{sizes:?}"
            );
        }
    }
}
