//! What administrators do: resources and the policy. Recorded first, done second.

use audit::Event;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::StatusCode;
use hyper::header::IF_NONE_MATCH;
use seal::key::Kek;
use seal::manifest::Manifest;
use seal::name::{Digest, ModelName};
use secret::Secret;
use serde::Deserialize;
use serde_json::json;
use tracing::info;

use super::{Answer, Call, Service, absent, internal, parse, policy_unusable, resource};
use crate::admin::{Admin, NotAdmin};
use crate::error::Error;
use crate::files::Existing;
use crate::policy::Compiled;
use crate::refusal::{Kind, Refusal};
use crate::resources::RESOURCE_BYTES_MAX;

#[derive(Deserialize)]
struct PostedPolicy {
    policy: String,
}

/// Which bundles of a model a key opens from now on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PostedPin {
    model: String,
    min_generation: u64,
    #[serde(default)]
    digests: Vec<String>,
}

impl Service {
    /// `GET /kbs/v0/resource`: names and metadata, never values.
    pub(super) fn list_resources(&self, call: &Call) -> Result<Answer, Refusal> {
        self.admin(call)?;
        let listed = self.resources.list().map_err(internal)?;
        Ok(Answer::json(&json!({ "resources": listed })))
    }

    /// `POST /kbs/v0/resource/<repository>/<type>/<tag>`: the body is the value. With
    /// `If-None-Match: *` an existing resource is left alone.
    pub(super) fn store_resource(&self, call: &Call, path: &str) -> Result<Answer, Refusal> {
        let admin = self.admin(call)?;
        let resource = resource(path)?;
        let existing = match call.headers.get(IF_NONE_MATCH).map(|value| value.as_bytes()) {
            None => Existing::Replace,
            Some(b"*") => Existing::Keep,
            Some(_) => {
                let detail = "If-None-Match can only be *";
                return Err(Refusal::new(Kind::ResourceRefused, detail));
            }
        };
        // The write checks these again; here they keep the audit log free of what is not done.
        check_size(call.body.len())?;
        if existing == Existing::Keep && self.resources.exists(&resource) {
            return Err(exists(&resource.path()));
        }
        self.record(Event::ResourceStored { resource: resource.to_string(), admin: admin.0 })?;
        let metadata = self
            .resources
            .write(&resource, &call.body, existing, self.clock.now())
            .map_err(|error| match error {
                Error::Exists(path) => exists(&path),
                error => internal(error),
            })?;
        info!(%resource, version = metadata.version, "stored");
        Ok(Answer::json(&json!(metadata)))
    }

    /// `PATCH /kbs/v0/resource/<repository>/<type>/<tag>`
    /// `{"model","min_generation","digests"}`: raises what a key demands of bundles, and never lowers
    /// it. The key itself does not leave the broker.
    pub(super) fn raise_pin(&self, call: &Call, path: &str) -> Result<Answer, Refusal> {
        let admin = self.admin(call)?;
        let resource = resource(path)?;
        let refuse = |detail: String| Refusal::new(Kind::ResourceRefused, detail);
        let posted: PostedPin = parse(&call.body, r#"{"model","min_generation"}"#)?;
        let model = ModelName::parse(&posted.model).map_err(|error| refuse(error.to_string()))?;
        let digests: Result<Vec<_>, _> =
            posted.digests.iter().map(|digest| Digest::parse(digest)).collect();
        let digests = digests.map_err(|error| refuse(error.to_string()))?;
        if posted.min_generation > Manifest::GENERATION_MAX {
            return Err(refuse(format!("no generation is above {}", Manifest::GENERATION_MAX)));
        }
        let raise = |value: &[u8]| {
            let unusable = |error: seal::Error| Unraised::Refused(refuse(error.to_string()));
            let key =
                Secret::copy(value).map_err(|_| Unraised::Refused(refuse("too long".into())))?;
            let key = Kek::parse(&key).map_err(unusable)?;
            let raised = key.raised(&model, posted.min_generation, digests).map_err(unusable)?;
            let jwk = raised.to_jwk().map_err(unusable)?;
            self.record(Event::PinRaised {
                resource: resource.to_string(),
                model: model.to_string(),
                min_generation: posted.min_generation,
                digests: posted.digests.clone(),
                admin: admin.0,
            })
            .map_err(Unraised::Refused)?;
            Ok(jwk)
        };
        match self.resources.change(&resource, self.clock.now(), raise) {
            Ok(Some(metadata)) => {
                info!(%resource, %model, min_generation = posted.min_generation, "raised");
                Ok(Answer::json(&json!(metadata)))
            }
            Ok(None) => Err(absent(&resource)),
            Err(Unraised::Refused(refusal)) => Err(refusal),
            Err(Unraised::Failed(error)) => Err(internal(error)),
        }
    }

    /// `DELETE /kbs/v0/resource/<repository>/<type>/<tag>`.
    pub(super) fn delete_resource(&self, call: &Call, path: &str) -> Result<Answer, Refusal> {
        let admin = self.admin(call)?;
        let resource = resource(path)?;
        if !self.resources.exists(&resource) {
            return Err(absent(&resource));
        }
        self.record(Event::ResourceDeleted { resource: resource.to_string(), admin: admin.0 })?;
        if !self.resources.delete(&resource).map_err(internal)? {
            return Err(absent(&resource));
        }
        info!(%resource, "deleted");
        Ok(Answer::json(&json!({})))
    }

    /// `GET /kbs/v0/resource-policy`: in the form that POST takes.
    pub(super) fn show_policy(&self, call: &Call) -> Result<Answer, Refusal> {
        self.admin(call)?;
        let policy = self.policy.current().map_err(policy_unusable)?;
        let text = URL_SAFE_NO_PAD.encode(policy.text());
        Ok(Answer::json(
            &json!({ "policy": text, "digest": format!("sha256:{}", policy.digest()) }),
        ))
    }

    /// `POST /kbs/v0/resource-policy` `{"policy":"<base64url>"}`: in force from the answer on.
    pub(super) fn store_policy(&self, call: &Call) -> Result<Answer, Refusal> {
        let admin = self.admin(call)?;
        let unusable = |error: Error| match error {
            Error::Policy(why) => {
                Refusal::new(Kind::PolicyEngineError, why).with_status(StatusCode::BAD_REQUEST)
            }
            Error::PolicyIsFile(_) => {
                Refusal::new(Kind::PolicyReadOnly, "the policy is managed by the operator's file")
            }
            error => internal(error),
        };
        self.policy.is_writable().map_err(unusable)?;
        let posted: PostedPolicy = parse(&call.body, r#"{"policy":"<base64url>"}"#)?;
        let text = URL_SAFE_NO_PAD
            .decode(posted.policy)
            .ok()
            .and_then(|text| String::from_utf8(text).ok())
            .ok_or_else(|| {
                Refusal::new(Kind::SerdeError, "the policy is not UTF-8 in unpadded base64url")
            })?;
        let policy = Compiled::parse(text).map_err(unusable)?;
        self.record(Event::PolicyChanged { digest: policy.digest().to_owned() })?;
        self.policy.store(&policy).map_err(unusable)?;
        info!(digest = policy.digest(), admin = ?admin.0, "policy changed");
        Ok(Answer::json(&json!({ "digest": format!("sha256:{}", policy.digest()) })))
    }

    fn admin(&self, call: &Call) -> Result<Admin, Refusal> {
        self.admins.authenticate(&call.headers, self.clock.now()).map_err(|error| {
            let kind = match error {
                NotAdmin::Role => Kind::AdminRole,
                _ => Kind::AdminAuthAccess,
            };
            Refusal::new(kind, format!("admin access denied: {error}"))
        })
    }
}

/// Why a pin was not raised.
enum Unraised {
    Refused(Refusal),
    Failed(Error),
}

impl From<Error> for Unraised {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

fn check_size(bytes: usize) -> Result<(), Refusal> {
    if bytes == 0 {
        return Err(Refusal::new(Kind::ResourceRefused, "a resource may not be empty"));
    }
    if bytes > RESOURCE_BYTES_MAX {
        let detail = format!("a resource has at most {RESOURCE_BYTES_MAX} bytes");
        return Err(Refusal::new(Kind::PayloadTooLarge, detail));
    }
    Ok(())
}

fn exists(path: &str) -> Refusal {
    Refusal::new(Kind::ResourceExists, format!("resource {path} exists"))
}
