//! Clouds with a scheme of their own that speak S3: their variables and endpoints, put into S3's.

use std::collections::HashMap;

use super::is_address;
use crate::service::S3Cloud;
use crate::settings::{Addressing, check_url};
use crate::{Error, Settings};

/// What a cloud's own tools read, and where it is.
struct Names {
    access_key_id: &'static str,
    secret_access_key: &'static str,
    session_token: &'static str,
    region: &'static str,
    /// In place of the region's own.
    endpoint: &'static str,
    /// The host that speaks S3 is this with a region in place of `{}`.
    host: &'static str,
}

impl S3Cloud {
    /// From the clouds' documentation of their SDKs and of "access by AWS' SDKs".
    fn names(self) -> Names {
        match self {
            Self::Oss => Names {
                access_key_id: "OSS_ACCESS_KEY_ID",
                secret_access_key: "OSS_ACCESS_KEY_SECRET",
                session_token: "OSS_SESSION_TOKEN",
                region: "OSS_REGION",
                endpoint: "OSS_ENDPOINT",
                host: "s3.oss-{}.aliyuncs.com",
            },
            Self::Cos => Names {
                access_key_id: "TENCENTCLOUD_SECRET_ID",
                secret_access_key: "TENCENTCLOUD_SECRET_KEY",
                session_token: "TENCENTCLOUD_TOKEN",
                region: "TENCENTCLOUD_REGION",
                endpoint: "COS_ENDPOINT",
                host: "cos.{}.myqcloud.com",
            },
            Self::Obs => Names {
                access_key_id: "OBS_ACCESS_KEY_ID",
                secret_access_key: "OBS_SECRET_ACCESS_KEY",
                session_token: "OBS_SECURITY_TOKEN",
                region: "OBS_REGION",
                endpoint: "OBS_ENDPOINT",
                host: "obs.{}.myhuaweicloud.com",
            },
        }
    }

    /// The settings with which S3's client reaches it. Nothing that is set for AWS is in them: its
    /// keys are not shown to another cloud.
    pub(super) fn settings(self, bucket: &str, settings: &Settings) -> Result<Settings, Error> {
        let names = self.names();
        let get = |name: &str| settings.ambient.get(name).cloned();
        let region = get(names.region).ok_or_else(|| {
            Error::usage(format!("{self}://: set {}, the bucket's region", names.region))
        })?;
        let endpoint = match get(names.endpoint) {
            Some(host) if !host.contains("://") => format!("https://{host}"),
            Some(url) => url,
            None => format!("https://{}", names.host.replace("{}", &region)),
        };
        check_url(names.endpoint, &endpoint)?;
        let keys = (get(names.access_key_id), get(names.secret_access_key));
        if keys.0.is_some() != keys.1.is_some() {
            let (id, secret) = (names.access_key_id, names.secret_access_key);
            return Err(Error::usage(format!("{id} and {secret} must be set together")));
        }
        // A certificate for `*.` and the endpoint's name does not cover a bucket with dots.
        let addressing = match is_address(&endpoint) || bucket.contains('.') {
            true => Addressing::Path,
            false => Addressing::Virtual,
        };
        let own = Settings {
            endpoint_url: Some(endpoint),
            region: Some(region),
            anonymous: settings.anonymous || keys.0.is_none(),
            access_key_id: keys.0,
            secret_access_key: keys.1,
            session_token: get(names.session_token),
            addressing,
            ambient: HashMap::new(),
            ..settings.verified()
        };
        own.check()?;
        Ok(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(cloud: S3Cloud, env: &[(&str, &str)]) -> Result<Settings, Error> {
        let get = |name: &str| env.iter().find(|it| it.0 == name).map(|it| it.1.to_owned());
        cloud.settings("models", &Settings::from_env(&get).unwrap())
    }

    #[test]
    fn a_region_leads_to_the_clouds_own_endpoint() {
        for (cloud, region, endpoint) in [
            (S3Cloud::Oss, "OSS_REGION", "https://s3.oss-x-1.aliyuncs.com"),
            (S3Cloud::Cos, "TENCENTCLOUD_REGION", "https://cos.x-1.myqcloud.com"),
            (S3Cloud::Obs, "OBS_REGION", "https://obs.x-1.myhuaweicloud.com"),
        ] {
            let own = settings(cloud, &[(region, "x-1")]).unwrap();
            assert_eq!(own.endpoint_url.as_deref(), Some(endpoint));
            assert_eq!(own.addressing, Addressing::Virtual);
            for env in [&[][..], &[(region, "x/../y")], &[(region, "evil.example/?")]] {
                assert!(matches!(settings(cloud, env), Err(Error::Usage { .. })), "{env:?}");
            }
        }
    }

    #[test]
    fn what_is_set_for_aws_is_not_shown_to_another_cloud() {
        let aws = [
            ("AWS_ACCESS_KEY_ID", "aws"),
            ("AWS_SECRET_ACCESS_KEY", "hunter2"),
            ("AWS_SESSION_TOKEN", "hunter2"),
            ("AWS_ENDPOINT_URL", "https://s3.example"),
            ("AWS_ROLE_ARN", "role"),
            ("S3_VERIFY_SSL", "false"),
            ("OSS_REGION", "x-1"),
        ];
        let own = settings(S3Cloud::Oss, &aws).unwrap();
        assert!(own.anonymous && own.verify_tls && own.ambient.is_empty());
        assert_eq!((own.access_key_id, own.session_token), (None, None));
        assert!(own.endpoint_url.is_some_and(|url| url.ends_with("aliyuncs.com")));
        let half = [("OSS_REGION", "x-1"), ("OSS_ACCESS_KEY_ID", "hunter2")];
        let half = settings(S3Cloud::Oss, &half).unwrap_err();
        assert!(matches!(&half, Error::Usage { what } if !what.contains("hunter2")), "{half:?}");
    }
}
