//! How this guest's volumes are: as a table of JSON rows, and as Prometheus reads it.

use link::exposition::{Exposition, Kind, float};
use link::pages::Page;
use volumes::report::GuestVolume;
use volumes::session::Volumes;

/// Volumes asked for at a time.
const PAGE: usize = 256;

/// The page at `path`: `/metrics`, and for root, `/status`, with digests and reasons. Asks for the
/// volumes anew.
pub fn page(path: &str, for_root: bool, volumes: &dyn Volumes) -> Option<Page> {
    match path {
        "/metrics" => Some(Page::metrics(metrics(&all(volumes), volumes.refusals()))),
        "/status" if for_root => {
            let text = serde_json::to_string_pretty(&all(volumes)).ok()?;
            Some(Page { media_type: "application/json", text, available: true })
        }
        _ => None,
    }
}

fn all(volumes: &dyn Volumes) -> Vec<GuestVolume> {
    let mut rows: Vec<GuestVolume> = Vec::new();
    let mut after = None;
    loop {
        let (page, more) = volumes.status(after.as_ref(), PAGE);
        after = page.last().map(|last| last.held.volume.clone());
        rows.extend(page.into_iter().map(GuestVolume::from));
        if !more || after.is_none() {
            return rows;
        }
    }
}

fn metrics(volumes: &[GuestVolume], refusals: u64) -> String {
    let mut text = Exposition::default();
    text.family("sealift_build_info", Kind::Gauge, "The agent's version.")
        .sample(&[("agent", "guest"), ("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let mut gauge = |name, help, value: &dyn Fn(&GuestVolume) -> f64| {
        let mut family = text.family(name, Kind::Gauge, help);
        for volume in volumes {
            let labels = [("volume", &*volume.volume), ("category", &*volume.category)];
            family.sample(&labels, value(volume));
        }
    };
    gauge(
        "sealift_guest_volume_sequence",
        "The revision that containers see; 0: none.",
        &|volume| float(volume.sequence),
    );
    gauge("sealift_guest_volume_age_seconds", "Since it became visible.", &|volume| {
        float(volume.age_seconds)
    });
    gauge("sealift_guest_volume_size_bytes", "Bytes of all files.", &|volume| float(volume.bytes));
    gauge("sealift_guest_volume_refused", "Whether something was refused since then.", &|volume| {
        float(u64::from(volume.failure.is_some()))
    });
    text.family("sealift_guest_refusals_total", Kind::Counter, "Requests that were refused.")
        .sample(&[], float(refusals));
    text.finish()
}
