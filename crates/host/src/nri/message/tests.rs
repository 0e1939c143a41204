//! Bytes as upstream's `api.proto` lays them down, by hand, and every way to break them.

use super::*;

/// A field with bytes, for lengths below 128.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("a length");
    assert!(length < 128 && number < 16);
    [&[number << 3 | 2, length], bytes].concat()
}

fn pod_bytes() -> Vec<u8> {
    let annotation = [field(1, b"sealift.dev/volumes"), field(2, b"off")].concat();
    let fields = [
        field(1, b"sid"),
        field(2, b"web"),
        field(3, b"uid"),
        field(4, b"ns"),
        field(5, b"\x0a\x01a"),
        field(6, &annotation),
        field(7, b"kata"),
        vec![9 << 3, 42],
    ];
    fields.concat()
}

fn the_pod() -> Pod {
    let text = String::from;
    Pod {
        id: text("sid"),
        name: text("web"),
        uid: text("uid"),
        namespace: text("ns"),
        annotation: Some(text("off")),
        handler: text("kata"),
    }
}

fn create_bytes() -> Vec<u8> {
    let mount = [field(1, b"/d"), field(2, b"bind"), field(3, b"/s"), field(4, b"ro")].concat();
    let container = [field(1, b"cid"), field(3, b"app"), vec![4 << 3, 1], field(9, &mount)];
    [field(1, &pod_bytes()), field(2, &container.concat())].concat()
}

#[test]
fn messages_are_read_as_upstream_writes_them() {
    let configure = [
        field(1, b"config"),
        field(2, b"containerd"),
        field(3, b"2.1"),
        vec![4 << 3, 0x88, 0x27, 5 << 3, 0xd0, 0x0f],
    ];
    let wanted =
        Configure { runtime: "containerd".into(), version: "2.1".into(), request_timeout_ms: 2000 };
    assert_eq!(Configure::decode(&configure.concat()), Ok(wanted));
    let synchronize = [field(1, &pod_bytes()), field(2, b"\x0a\x01c"), vec![3 << 3, 1]].concat();
    let message = Synchronize::decode(&synchronize).expect("a message");
    assert_eq!(message, Synchronize { pods: vec![the_pod()], more: true });
    assert_eq!(message.answer(), [2 << 3, 1]);
    let change = |event: u8| [vec![1 << 3, event], field(2, &pod_bytes())].concat();
    let found = state_change(&change(1)).expect("a message");
    assert_eq!(found, Some((Event::RunPodSandbox, the_pod())));
    assert_eq!(state_change(&change(6)), Ok(None), "a container has started");
    assert!(state_change(&[1 << 3, 1]).is_err(), "of which pod?");
    assert_eq!(Pod::of_request(&field(1, &pod_bytes())), Ok(the_pod()));
    let create = CreateContainer::decode(&create_bytes()).expect("a message");
    assert_eq!((create.pod, create.name.as_str()), (the_pod(), "app"));
    let [mount] = &create.mounts[..] else { panic!("{:?}", create.mounts) };
    assert_eq!((mount.destination.as_str(), mount.source.as_str()), ("/d", "/s"));
    assert!(CreateContainer::decode(&field(1, &pod_bytes())).is_err(), "which container?");
}

#[test]
fn messages_are_written_as_upstream_reads_them() {
    assert_eq!(register("ab", "07"), b"\x0a\x02ab\x12\x0207");
    assert_eq!(configured(), [2 << 3, 0b1111]);
    assert_eq!(adjustment(&[]), [0_u8; 0]);
    let mount = Mount {
        destination: "/d".into(),
        kind: "bind".into(),
        source: "/s".into(),
        options: vec!["ro".into()],
    };
    let added = [field(1, b"/d"), field(2, b"bind"), field(3, b"/s"), field(4, b"ro")].concat();
    let adjust = [field(3, &field(1, b"-/d")), field(3, &added)].concat();
    assert_eq!(adjustment(&[mount]), field(1, &adjust));
    assert_eq!(
        refused(Code::FailedPrecondition, "no\n"),
        b"\x0a\x09\x08\x09\x12\x05no\xef\xbf\xbd"
    );
    let long = refused(Code::InvalidArgument, &"ä".repeat(5000));
    assert!(long.len() < 2100, "{}", long.len());
}

/// Whatever is cut off or changed, at any byte: an error or a message, and no panic. What is no
/// message of one kind may be one of another: each is tried as all.
#[test]
fn every_prefix_and_every_changed_byte_is_survived() {
    type Decode = fn(&[u8]) -> bool;
    let decoders: [Decode; 5] = [
        |bytes| Configure::decode(bytes).is_ok(),
        |bytes| Synchronize::decode(bytes).is_ok(),
        |bytes| Pod::of_request(bytes).is_ok(),
        |bytes| state_change(bytes).is_ok(),
        |bytes| CreateContainer::decode(bytes).is_ok(),
    ];
    let configure = [field(2, b"containerd"), field(3, b"2.1"), vec![5 << 3, 0xd0, 0x0f]].concat();
    let synchronize = [field(1, &pod_bytes()), vec![3 << 3, 1]].concat();
    let change = [vec![1 << 3, 1], field(2, &pod_bytes())].concat();
    let goods = [configure, synchronize, field(1, &pod_bytes()), change, create_bytes()];
    for (good, of) in goods.iter().zip(decoders) {
        assert!(of(good));
        // All but those that end between two fields.
        let cut = (0..good.len()).filter(|end| of(&good[..*end])).count();
        assert!(cut <= 4, "{cut} prefixes are messages");
        for decode in decoders {
            for end in 0..good.len() {
                decode(&good[..end]);
            }
            for position in 0..good.len() {
                for value in 0..=u8::MAX {
                    let mut bytes = good.clone();
                    bytes[position] = value;
                    decode(&bytes);
                }
            }
        }
    }
}

#[test]
fn lists_end() {
    let mounts: Vec<u8> = field(9, b"").repeat(MOUNTS_MAX + 1);
    let create = |container: &[u8]| {
        let mut bytes = field(1, &[]);
        bytes.extend(Encoder::default().bytes(2, container).finish());
        CreateContainer::decode(&bytes)
    };
    assert!(create(&mounts[2..]).is_ok());
    assert!(matches!(create(&mounts), Err(Error::Limit { .. })));
    let pods = field(1, b"").repeat(PODS_MAX + 1);
    assert!(Synchronize::decode(&pods[2..]).is_ok());
    assert!(matches!(Synchronize::decode(&pods), Err(Error::Limit { .. })));
    let annotations = field(6, b"").repeat(ANNOTATIONS_MAX + 1);
    let pod = Encoder::default().bytes(1, &annotations).finish();
    assert!(matches!(Pod::of_request(&pod), Err(Error::Limit { .. })));
}
