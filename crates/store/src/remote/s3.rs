//! S3 and whatever speaks it.

use opendal::{Operator, services};
use url::Url;

use super::{Opened, Parts, Version, failure};
use crate::service::S3Cloud;
use crate::settings::Addressing;
use crate::{Error, Settings};

mod clouds;
mod credentials;

const REGION_DEFAULT: &str = "us-east-1";
/// opendal puts the region into this one.
const AWS_ENDPOINT: &str = "https://s3.amazonaws.com";
const PARTS: Parts = Parts { count_max: 10_000 };

pub(super) fn open(bucket: &str, settings: &Settings) -> Result<Opened, Error> {
    let endpoint = settings.endpoint_url.as_deref().map(|url| url.trim_end_matches('/'));
    let custom = endpoint.filter(|url| *url != AWS_ENDPOINT);
    let tls = custom.is_none_or(|url| !url.starts_with("http:")) || credentials::need_tls(settings);
    let virtual_hosted = match settings.addressing {
        Addressing::Path => false,
        Addressing::Virtual => true,
        // A certificate for `*.s3…` does not cover a bucket with dots.
        Addressing::Auto => custom.is_none() && !bucket.contains('.'),
    };
    if virtual_hosted && (bucket.contains('.') || custom.is_some_and(is_address)) {
        return Err(Error::usage(
            "S3_USER_VIRTUAL_BUCKET: neither a bucket with a dot nor an endpoint that is an \
             address can be reached so",
        ));
    }
    let mut builder = services::S3::default()
        .bucket(bucket)
        .region(settings.region.as_deref().unwrap_or(REGION_DEFAULT))
        .endpoint(endpoint.unwrap_or(AWS_ENDPOINT))
        .disable_config_load()
        .disable_ec2_metadata()
        .credential_provider_chain(credentials::chain(settings));
    if settings.anonymous {
        builder = builder.skip_signature();
    }
    if virtual_hosted {
        builder = builder.enable_virtual_host_style();
    }
    let operator = Operator::new(builder).map_err(|error| failure(&error))?;
    Ok(Opened { operator, version: Version::Etag, tls, parts: PARTS })
}

/// A cloud that speaks S3.
pub(super) fn open_cloud(
    cloud: S3Cloud,
    bucket: &str,
    settings: &Settings,
) -> Result<Opened, Error> {
    open(bucket, &cloud.settings(bucket, settings)?)
}

fn is_address(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| !matches!(url.host(), Some(url::Host::Domain(_))))
}
