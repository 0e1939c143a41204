//! A machine made of a few files and variables.

use std::collections::BTreeMap;

use super::place::Machine;

type Variable = Box<dyn Fn(&str) -> Option<String>>;

pub(super) struct Fake {
    root: tempfile::TempDir,
    variables: BTreeMap<&'static str, String>,
    variable: Variable,
}

impl Fake {
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self { root, variables: BTreeMap::new(), variable: Box::new(|_| None) }
    }

    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.insert(name, value.to_owned());
        let variables = self.variables.clone();
        self.variable = Box::new(move |name| variables.get(name).cloned());
        self
    }

    pub(super) fn machine(&self) -> Machine<'_> {
        Machine { root: self.root.path().to_owned(), variable: &*self.variable }
    }
}
