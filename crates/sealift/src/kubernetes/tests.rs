use super::*;

fn parse(text: &str) -> Result<Manifest, Failure> {
    Manifest::parse(Zeroizing::new(text.as_bytes().to_vec()))
}

fn values<'a>(of: &[(&'a str, &[u8])]) -> BTreeMap<&'a str, Zeroizing<Vec<u8>>> {
    of.iter().map(|(key, value)| (*key, Zeroizing::new(value.to_vec()))).collect()
}

const HEAD: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: db, namespace: team-a}\n";

/// Every way to write a value: it is exchanged, and what is around it stays byte for byte.
#[test]
fn a_value_is_exchanged_wherever_and_however_it_stands() {
    for (before, value, after) in [
        (
            "stringData:\n  a: hunter2  # the old one\n",
            "hunter2",
            "stringData:\n  a: NEW  # the old one\n",
        ),
        ("stringData:\n  a: 'it''s'\n", "it's", "stringData:\n  a: NEW\n"),
        ("stringData:\n  a: \"x\\ty\"\n", "x\ty", "stringData:\n  a: NEW\n"),
        ("stringData:\n  a: one\n    two\n  b: x\n", "one two", "stringData:\n  a: NEW\n  b: x\n"),
        (
            "stringData:\n  a: |\n    one\n    two\n  b: x\n",
            "one\ntwo\n",
            "stringData:\n  a: NEW\n  b: x\n",
        ),
        ("stringData:\n  a: |-\n    one\n\n  b: x\n", "one", "stringData:\n  a: NEW\n\n  b: x\n"),
        ("stringData:\n  a: >\n    one\n    two\n", "one two\n", "stringData:\n  a: NEW\n"),
        (
            "stringData:\n  a: |2\n      one\nimmutable: true\n",
            "  one\n",
            "stringData:\n  a: NEW\nimmutable: true\n",
        ),
        ("stringData: {b: x, a: hunter2}\n", "hunter2", "stringData: {b: x, a: NEW}\n"),
        ("stringData: {\"a\": \"hunter2\"}\n", "hunter2", "stringData: {\"a\": NEW}\n"),
        (
            "stringData:\n  \"a\" : hunter2\ntype: Opaque\n",
            "hunter2",
            "stringData:\n  \"a\" : NEW\ntype: Opaque\n",
        ),
        (
            "# größer\nstringData:\n  b: ä\n  a: ö\n",
            "ö",
            "# größer\nstringData:\n  b: ä\n  a: NEW\n",
        ),
        ("data:\n  a: aHVudGVyMg==\n", "hunter2", "data:\n  a: BASE64\n"),
        ("data:\n  a: |\n    aHVu\n    dGVyMg==\n", "hunter2", "data:\n  a: BASE64\n"),
        (
            "data:\r\n  a: aHVudGVyMg==\r\ntype: x\r\n",
            "hunter2",
            "data:\r\n  a: BASE64\r\ntype: x\r\n",
        ),
    ] {
        let manifest =
            parse(&format!("{HEAD}{before}")).unwrap_or_else(|e| panic!("{before}: {e}"));
        let entry = manifest.entries.iter().find(|entry| entry.key == "a").unwrap();
        assert_eq!(str::from_utf8(&entry.value), Ok(value), "{before}");
        let new = "sealed.a-b.c_d.e";
        let text = manifest
            .with(&values(&[("a", new.as_bytes())]))
            .unwrap_or_else(|e| panic!("{before}: {e}"));
        let written =
            after.replace("NEW", &format!("\"{new}\"")).replace("BASE64", &STANDARD.encode(new));
        assert_eq!(*text, format!("{HEAD}{written}"), "{before}");
    }
}

#[test]
fn what_is_no_plain_secret_is_refused_and_never_quoted() {
    let bomb: String = (0..9)
        .map(|n| format!("a{}: &a{} [{}]\n", n + 1, n + 1, vec![format!("*a{n}"); 9].join(",")))
        .collect();
    let (long, deep) = ("x".repeat(BYTES_MAX), "[".repeat(100));
    let many = "- x\n".repeat(200_000);
    let with = |rest: &str| format!("{HEAD}{rest}");
    for (text, why) in [
        (String::new(), "no document"),
        ("---\n---\n".into(), "second document"),
        (with("stringData: {a: b}\n---\nx: y\n"), "second document"),
        (with(&format!("a0: &a0 hunter2\n{bomb}")), "anchor"),
        (with("stringData: {a: &x hunter2, b: *x}\n"), "anchor"),
        (with("stringData:\n  <<: {a: hunter2}\n"), "key that is no text"),
        (with("stringData: {a: !!str 7}\n"), "a tag"),
        (with("data: {a: !!binary aHVudGVyMg==}\n"), "a tag"),
        (with("stringData: {a: !x hunter2}\n"), "a tag"),
        (with("stringData: {a: hunter2, a: other}\n"), "second time"),
        (with("data: {a: aHVudGVyMg==}\nstringData: {a: hunter2}\n"), "in data and in stringData"),
        (with("stringData: {7: hunter2}\n"), "key that is no text"),
        (with("stringData: {true: hunter2}\n"), "key that is no text"),
        (with("stringData: {? [a] : hunter2}\n"), "key that is no text"),
        (with("stringData: {? {a: b} : hunter2}\n"), "key that is no text"),
        (with("stringData: {'a b': hunter2}\n"), "no key of a Secret"),
        (with("stringData: {'../a': hunter2}\n"), "no key of a Secret"),
        (with("stringData: {..data: hunter2}\n"), "no key of a Secret"),
        (with("stringData:\n  a: |\n    hunter2"), "no line break at the end"),
        (with("stringData: {a: 7}\n"), "no text"),
        (with("stringData: {a: yes}\n"), "no text"),
        (with("stringData: {a: 0x1F}\n"), "no text"),
        (with("stringData: {a: 1e3}\n"), "no text"),
        (with("stringData: {a: 12:30:45}\n"), "no text"),
        (with("stringData: {a: 2027-01-01}\n"), "no text"),
        (with("stringData: {a: }\n"), "no text"),
        (with("stringData: {a: [hunter2]}\n"), "no text"),
        (with("stringData: {a: {b: hunter2}}\n"), "no text"),
        (with("stringData: [hunter2]\n"), "no map"),
        (with("stringData: hunter2\n"), "no map"),
        (with("stringData:\n"), "no values"),
        (with("data: {a: hunter2}\n"), "no base64"),
        (with("data: {a: 'aHVudGVyMg'}\n"), "no base64"),
        (with("data: {a: 1234}\n"), "no text"),
        (with(&format!("stringData: {{a: {long}}}\n")), "longer than"),
        (with(&format!("x: {deep}\n")), "too deep"),
        (with(&format!("x:\n{many}")), "too much"),
        (with("stringData: {a: \"hunter2\n"), "line"),
        (with("\tstringData: {a: hunter2}\n"), "line"),
        (format!("\u{feff}{HEAD}"), "byte order mark"),
        ("apiVersion: v1\nkind: ConfigMap\ndata: {a: b}\n".into(), "no Secret"),
        ("apiVersion: v1\nkind: List\nitems: []\n".into(), "a list"),
        ("[1, 2]\n".into(), "no Secret"),
        ("apiVersion: v1\nkind: Secret\nstringData: {a: b}\n".into(), "no name"),
        (
            format!(
                "apiVersion: v1\nkind: Secret\nmetadata:\n  name: db\n  annotations:\n    \
                 {LAST_APPLIED}: '{{}}'\nstringData: {{a: hunter2}}\n"
            ),
            "repeats the values",
        ),
    ] {
        let start: String = text.chars().take(200).collect();
        let refused = parse(&text).err().unwrap_or_else(|| panic!("{start}"));
        assert!(refused.what().contains(why), "{start}: {refused}");
        assert!(!refused.to_string().contains("hunter2"), "{refused}");
    }
    assert!(Manifest::parse(Zeroizing::new(vec![0xff, 0xfe])).is_err());
}

/// Cut anywhere, it is refused, or is a Secret of fewer values; and it never panics.
#[test]
fn no_prefix_and_no_changed_byte_panics() {
    let whole = format!("{HEAD}data:\n  a: aHVudGVyMg==\nstringData:\n  b: |\n    x\n  c: 'y'\n");
    for end in 0..whole.len() {
        let _ = parse(&whole[..end]);
        for byte in [b'\0', b'\n', b':', b'&', b'*', b'"', b'{', 0xff] {
            let mut changed = whole.clone().into_bytes();
            changed[end] = byte;
            if let Ok(manifest) = Manifest::parse(Zeroizing::new(changed)) {
                let keys: Vec<_> = manifest.entries.iter().map(|e| e.key.clone()).collect();
                let new: Vec<_> = keys.iter().map(|key| (&**key, &b"sealed.x"[..])).collect();
                let _ = manifest.with(&values(&new));
            }
        }
    }
}

#[test]
fn binary_values_and_odd_text_come_back() {
    let manifest = parse(&format!("{HEAD}data:\n  a: AP8=\nstringData:\n  b: x\n")).unwrap();
    assert_eq!(*manifest.entries[0].value, [0, 255]);
    let odd = "\"\\ \u{85}\u{2028}\t\u{7f}\u{1f512}\r\nä: # 'x'";
    let text = manifest.with(&values(&[("a", &[0xfe, 0]), ("b", odd.as_bytes())])).unwrap();
    let again = parse(&text).unwrap();
    assert_eq!(*again.entries[0].value, [0xfe, 0]);
    assert_eq!(*again.entries[1].value, *odd.as_bytes());
    assert!(manifest.with(&values(&[("b", &[0xff])])).is_err(), "no text in stringData");
    // What looks like a number in base64 is quoted, for readers of YAML 1.1.
    let text = manifest.with(&values(&[("a", &STANDARD.decode("12345678").unwrap())])).unwrap();
    assert!(text.contains("a: \"12345678\""), "{}", *text);
}

#[test]
fn values_that_stand_elsewhere_too_are_found() {
    let keys = BTreeSet::from(["a"]);
    for (more, line) in [
        ("# was hunter2-x before\n", Some(4)),
        ("immutable: true\nx: {z: [aHVudGVyMi14]}\n", Some(5)),
        ("immutable: true\n", None),
    ] {
        let manifest = parse(&format!("{HEAD}{more}stringData:\n  a: hunter2-x\n")).unwrap();
        let text = manifest.with(&values(&[("a", b"sealed.x")])).unwrap();
        assert_eq!(manifest.trace(&keys, &text), line.map(|line| (line, "a")), "{more}");
    }
}
