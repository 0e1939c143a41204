//! What a guest with genpolicy's policy makes of a container's mounts. `deploy/genpolicy/sealift.rego`
//! is read as it is and evaluated by kata-agent's own library; around it is what genpolicy's rules
//! come to for one volume: `check_mount` and `CopyFileRequest` of `src/tools/genpolicy/rules.rego`.

use regorus::{Engine, Value};
use serde_json::json;

const SEALIFT: &str = include_str!("../../../../../deploy/genpolicy/sealift.rego");

const GENPOLICY: &str = r#"
package agent_policy
import rego.v1

CreateContainerRequest if {
    every mount in input.mounts {
        some expected in data.mounts
        check_mount(expected, mount, input.container, "")
    }
}

check_mount(expected, mount, container, _) if {
    object.remove(expected, ["source"]) == object.remove(mount, ["source"])
    regex.match(replace(expected.source, "$(bundle-id)", container), mount.source)
}

CopyFileRequest if {
    some pattern in data.copied
    regex.match(replace(pattern, "$(bundle-id)", "[a-z0-9]{64}"), input.path)
}
"#;

/// genpolicy's `common.sfprefix`.
const COPIED: &str = "^/run/kata-containers/shared/containers/$(bundle-id)-[a-z0-9]{16}-";

/// The policy of a guest.
pub struct Policy(Engine);

impl Policy {
    /// For a container with volumes at these places. `guest` is where our guest agent keeps them;
    /// `copied`, which files the host may copy, after [`COPIED`].
    pub fn new(guest: &str, copied: &str, destinations: &[String]) -> Self {
        let mut engine = Engine::new();
        let ours = SEALIFT.replace("/run/sealift", guest);
        engine.add_policy("policy.rego".into(), format!("{GENPOLICY}\n{ours}")).unwrap();
        let mounts = destinations.iter().map(|destination| {
            let name = destination.rsplit('/').next().unwrap();
            json!({
                "destination": destination,
                "type_": "bind",
                "source": format!("{COPIED}{name}$"),
                "options": ["rbind", "rprivate", "ro"],
            })
        });
        let mounts: Vec<_> = mounts.collect();
        let data = json!({"mounts": mounts, "copied": [format!("{COPIED}{copied}")]});
        engine.add_data(Value::from_json_str(&data.to_string()).unwrap()).unwrap();
        Self(engine)
    }

    /// Whether a container may be made with these mounts, as a runtime's specification has them.
    pub fn mounts(&mut self, container: &str, mounts: &[serde_json::Value]) -> bool {
        let mounts: Vec<_> = mounts
            .iter()
            .map(|mount| {
                json!({
                    "destination": mount["destination"],
                    "type_": mount["type"],
                    "source": mount["source"],
                    "options": mount["options"],
                })
            })
            .collect();
        self.allows("CreateContainerRequest", &json!({"container": container, "mounts": mounts}))
    }

    /// Whether the host may copy a file.
    pub fn copies(&mut self, path: &str) -> bool {
        self.allows("CopyFileRequest", &json!({"path": path}))
    }

    fn allows(&mut self, rule: &str, input: &serde_json::Value) -> bool {
        self.0.set_input(Value::from_json_str(&input.to_string()).unwrap());
        let rule = self.0.eval_rule(format!("data.agent_policy.{rule}")).unwrap();
        matches!(rule, Value::Bool(true))
    }
}
