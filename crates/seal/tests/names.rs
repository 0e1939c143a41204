//! Which names exist, and which are refused.
#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use seal::Error;
use seal::name::{BundleId, BundlePath, Digest, ModelName, ResourceUri, check_set};

#[test]
fn accepts_the_paths_that_models_have() {
    let deepest = ["d"; 32].join("/");
    let longest = "n".repeat(248);
    for path in [
        "config.json",
        "model-00001-of-00003.safetensors",
        "onnx/model.onnx",
        ".gitattributes",
        "...",
        "..a",
        "a..",
        "a.sealed",
        "sealift.json",
        "sealift.json.d/x",
        "a/sealift.json/b",
        "sealift",
        "with space",
        " ",
        "-rf",
        "~",
        "a:b",
        "C:",
        "quote\"'`$(x)",
        "ünï/ça/模型.bin",
        "e\u{301}",
        &deepest,
        &longest,
    ] {
        assert_eq!(BundlePath::parse(path).unwrap().object(), format!("{path}.sealed"));
    }
}

#[test]
fn refuses_paths_that_could_leave_collide_or_mislead() {
    let too_deep = ["d"; 33].join("/");
    let component = "n".repeat(249);
    let wide_component = "é".repeat(125);
    let long = [&"x".repeat(200)[..]; 6].join("/");
    let named = [
        // Nothing, absolute, empty components.
        "",
        "/",
        "//",
        "/a",
        "//a",
        "a/",
        "a//b",
        "/a/",
        "a/b/",
        // Up and around.
        ".",
        "..",
        "./a",
        "../a",
        "a/.",
        "a/..",
        "a/./b",
        "a/../b",
        "a/../../b",
        "../../etc/passwd",
        "./.",
        "../",
        "a/b/../../..",
        // Control characters and other separators.
        "\0",
        "a\0",
        "a\0b",
        "a\nb",
        "a\rb",
        "a\tb",
        "\u{1}",
        "\u{1f}",
        "\u{7f}",
        "\u{80}",
        "\u{85}",
        "\u{9f}",
        "a\u{1b}[31m",
        "a\\b",
        "\\",
        "..\\a",
        "C:\\x",
        "\\\\host\\share",
        // Ours.
        ".sealift",
        ".sealift-staging",
        ".sealift-receipt.json",
        ".sealift/x",
        ".SEALIFT",
        ".Sealift-x",
        ".sealift.json",
        "a/.sealift",
        "a/.sealift-staging/b",
        "a/b/.SeaLift",
        ".sealift ",
        ".sealift\u{e9}",
        "\u{fe}/.sealift\u{0}",
        "a/.sealift",
        "\u{e9}/.Sealift/\u{e9}",
        // Below the object of ours.
        "sealift.json/a",
        "Sealift.JSON/a/b",
        "sealift.json/sealift.json",
    ];
    let sized = [&too_deep, &component, &wide_component, &long, &format!("a/{component}/b")];
    for path in named.into_iter().chain(sized.map(String::as_str)) {
        let refused = BundlePath::parse(path);
        assert!(matches!(refused, Err(Error::Name { .. })), "{path:?}");
    }
}

#[test]
fn a_long_refused_name_is_shortened_in_the_message() {
    let message = BundlePath::parse(&"\u{1b}".repeat(5000)).unwrap_err().to_string();
    assert!(message.len() < 2000 && !message.contains('\u{1b}'), "{message}");
}

fn check(paths: &[&str]) -> Result<(), Error> {
    let paths: Vec<BundlePath> =
        paths.iter().map(|path| BundlePath::parse(path).unwrap()).collect();
    check_set(paths.iter())
}

#[test]
fn accepts_sets_that_stand_beside_each_other() {
    for set in [
        &[][..],
        &["a"],
        &["a", "b"],
        &["B", "a"],
        &["a/b", "a/c", "ab"],
        &["a", "a.b", "a.sealed", "ab/c"],
        &["a-b", "a/b"],
        &["a/x", "b/x"],
    ] {
        assert!(check(set).is_ok(), "{set:?}");
    }
}

#[test]
fn refuses_sets_that_do_not() {
    for set in [
        // Order and duplicates.
        &["a", "a"][..],
        &["b", "a"],
        &["a", "B"],
        &["a/b", "a-b"],
        // Equal but for case, in any script, anywhere in the path.
        &["A", "a"],
        &["README", "ReadMe"],
        &["D/f", "d/f"],
        &["d/F", "d/f"],
        &["É", "é"],
        &["K", "\u{212a}"],
        &["ΑΣ", "ας"],
        // A file that is a directory too.
        &["a", "a/b"],
        &["a/b", "a/b/c"],
        &["A", "a/b"],
        &["A/b", "a"],
        // An object that is a directory too.
        &["a", "a.sealed/b"],
        &["A.SEALED/b", "a"],
        &["d/a", "d/a.sealed/b/c"],
    ] {
        assert!(matches!(check(set), Err(Error::Name { .. })), "{set:?}");
    }
}

#[test]
fn digests_and_ids_have_one_spelling() {
    let digest = Digest::of(b"");
    let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!((digest.hex(), digest.to_string()), (hex.to_owned(), format!("sha256:{hex}")));
    assert_eq!(Digest::parse(&digest.to_string()).unwrap(), digest);
    let upper = hex.to_uppercase();
    for text in [
        hex,
        "sha256:",
        &format!("SHA256:{hex}"),
        &format!("sha256:{upper}"),
        &format!("sha256:{hex}0"),
        &format!("sha256:{} ", &hex[1..]),
        &format!("sha512:{hex}"),
    ] {
        assert!(Digest::parse(text).is_err(), "{text}");
    }
    let id = BundleId::random();
    assert_eq!(BundleId::parse(&id.to_string()).unwrap(), id);
    for text in ["", "0", &upper[..32], &hex[..31], &hex[..33], "0123456789abcdef0123456789abcdeg"]
    {
        assert!(BundleId::parse(text).is_err(), "{text}");
    }
}

#[test]
fn model_names() {
    let longest = "m".repeat(128);
    for name in ["m", "0", "org/model", "Llama-3.1_8B", "a..b", "a//b", &longest] {
        assert_eq!(ModelName::parse(name).unwrap().as_str(), name);
    }
    for name in ["", "/a", ".a", "-a", "_a", "a b", "a:b", "é", "a\n", &format!("{longest}m")] {
        assert!(ModelName::parse(name).is_err(), "{name:?}");
    }
}

#[test]
fn resource_uris() {
    let longest = format!("{0}/{0}/{0}", "s".repeat(255));
    for path in ["default/key/1", "_/-/_", "a.b/c..d/e-", &longest] {
        let uri = ResourceUri::from_path(path).unwrap();
        assert_eq!((uri.path(), uri.to_string()), (path.to_owned(), format!("kbs:///{path}")));
        assert_eq!(ResourceUri::parse(&uri.to_string()).unwrap(), uri);
    }
    for uri in [
        "",
        "kbs:///",
        "kbs:///a",
        "kbs:///a/b",
        "kbs:///a/b/c/d",
        "kbs:///a/b/",
        "kbs:////b/c",
        "kbs:///a//c",
        "kbs://host/a/b/c",
        "kbs://host:1/a/b/c",
        "kbs:/a/b/c",
        "KBS:///a/b/c",
        "kbs+x:///a/b/c",
        "kbs:///a/b/.c",
        "kbs:///../b/c",
        "kbs:///a/b/c?q",
        "kbs:///a/b/c#f",
        "kbs:///a/b/c ",
        " kbs:///a/b/c",
        "kbs:///a/b/%63",
        "kbs:///a/b/é",
        "a/b/c",
        &format!("kbs:///{longest}s"),
    ] {
        assert!(ResourceUri::parse(uri).is_err(), "{uri}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_accepted_path_stays_below_its_root(path in "[./a\\\\~\u{0}-\u{20}]{0,12}") {
        if let Ok(path) = BundlePath::parse(&path) {
            let clean = |component| matches!(component, std::path::Component::Normal(_));
            let path = std::path::Path::new(path.as_str());
            prop_assert!(path.components().all(clean));
            prop_assert_eq!(path.components().as_path(), path);
        }
    }

    #[test]
    fn parsing_never_panics(text in ".*") {
        let _ = (BundlePath::parse(&text), Digest::parse(&text), BundleId::parse(&text));
        let _ = (ModelName::parse(&text), ResourceUri::parse(&text), ResourceUri::from_path(&text));
    }
}

#[test]
fn an_objects_name_is_lower_cased_as_a_whole() {
    // Σ is σ within a word and ς at its end: `aΣ` alone lower-cases to another letter.
    let paths = ["aΣ", "aΣ.sealed/b"].map(|path| BundlePath::parse(path).unwrap());
    assert!(matches!(check_set(paths.iter()), Err(Error::Name { .. })));
}
