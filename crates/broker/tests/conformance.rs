//! Our client against our broker: the suite that every key source passes.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Mutex;

use common::Broker;
use keys::conformance::{Fixture, check};
use keys::{HttpSettings, Kbs, SampleAttester};
use seal::jwe::TeeKeyKind;
use seal::name::ResourceUri;

struct Real {
    broker: Broker,
    denied: Mutex<Vec<String>>,
    key_kind: TeeKeyKind,
}

impl Fixture for Real {
    type Source = Kbs;

    fn source(&self) -> Kbs {
        let url = format!("http://{}", self.broker.wire.address);
        let kbs = Kbs::new(&url, Box::new(SampleAttester), &HttpSettings::default()).unwrap();
        kbs.with_key_kind(self.key_kind)
    }

    async fn put(&self, resource: &ResourceUri, bytes: &[u8]) -> bool {
        let path = format!("/kbs/v0/resource/{}", resource.path());
        let reply = self.broker.admin("POST", &path, bytes);
        assert!(matches!(reply.status, 200 | 400 | 413), "{reply:?}");
        reply.status == 200
    }

    async fn deny(&self, resource: &ResourceUri) -> bool {
        let mut denied = self.denied.lock().unwrap();
        denied.push(resource.path());
        let mut rego = "package policy\nimport rego.v1\ndefault allow = false\n".to_owned();
        rego += "allow if not denied\ndenied if concat(\"/\", data[\"resource-path\"]) in {";
        rego += &denied.iter().map(|path| format!("{path:?}")).collect::<Vec<_>>().join(", ");
        rego += "}\n";
        assert_eq!(self.broker.set_policy(&rego).status, 200);
        true
    }

    /// `sealift-keys` tries that with its fake.
    async fn set_down(&self, _: bool) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_client_and_our_broker_conform_with_every_kind_of_key() {
    for key_kind in [TeeKeyKind::P256, TeeKeyKind::P521, TeeKeyKind::Rsa] {
        check(&Real { broker: Broker::start(), denied: Mutex::default(), key_kind }).await;
    }
}
