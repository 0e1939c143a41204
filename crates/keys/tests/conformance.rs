//! Every key source against the one suite.

#![expect(clippy::unwrap_used, reason = "allowed in test functions, and here beside them")]

use std::path::PathBuf;

use keys::conformance::{Fixture, check};
use keys::{Cdh, FileSource, HttpSettings, Kbs, SampleAttester};
use seal::jwe::TeeKeyKind;
use seal::name::ResourceUri;
use tempfile::TempDir;
use testkit::kbs::FakeKbs;

struct CdhFixture(FakeKbs);

impl Fixture for CdhFixture {
    type Source = Cdh;

    fn source(&self) -> Cdh {
        Cdh::new(&self.0.url(), &HttpSettings::default()).unwrap()
    }

    async fn put(&self, resource: &ResourceUri, bytes: &[u8]) -> bool {
        self.0.put(&resource.path(), bytes);
        true
    }

    async fn deny(&self, resource: &ResourceUri) -> bool {
        self.0.deny(&resource.path());
        true
    }

    async fn set_down(&self, down: bool) -> bool {
        self.0.set_down(down);
        true
    }

    fn tells_why(&self) -> bool {
        false
    }
}

struct KbsFixture(FakeKbs, TeeKeyKind);

impl Fixture for KbsFixture {
    type Source = Kbs;

    fn source(&self) -> Kbs {
        let url = self.0.url();
        let kbs = Kbs::new(&url, Box::new(SampleAttester), &HttpSettings::default()).unwrap();
        kbs.with_key_kind(self.1)
    }

    async fn put(&self, resource: &ResourceUri, bytes: &[u8]) -> bool {
        self.0.put(&resource.path(), bytes);
        true
    }

    async fn deny(&self, resource: &ResourceUri) -> bool {
        self.0.deny(&resource.path());
        true
    }

    async fn set_down(&self, down: bool) -> bool {
        self.0.set_down(down);
        true
    }
}

struct FileFixture(TempDir);

impl Fixture for FileFixture {
    type Source = FileSource;

    fn source(&self) -> FileSource {
        FileSource::new(self.0.path())
    }

    async fn put(&self, resource: &ResourceUri, bytes: &[u8]) -> bool {
        let path: PathBuf = self.0.path().join(resource.path());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        true
    }

    async fn deny(&self, _: &ResourceUri) -> bool {
        false
    }

    async fn set_down(&self, _: bool) -> bool {
        false
    }
}

#[tokio::test]
async fn cdh_conforms() {
    check(&CdhFixture(FakeKbs::start().await.unwrap())).await;
}

#[tokio::test]
async fn kbs_conforms_with_every_kind_of_key() {
    for kind in [TeeKeyKind::P256, TeeKeyKind::P521, TeeKeyKind::Rsa] {
        check(&KbsFixture(FakeKbs::start().await.unwrap(), kind)).await;
    }
}

#[tokio::test]
async fn file_conforms() {
    check(&FileFixture(tempfile::tempdir().unwrap())).await;
}
