//! A page's blocks as one shell runs them, and what they print against what the page shows.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::markdown::{Block, Kind, Shown};

/// A shell's commands, built from blocks.
pub(crate) struct Script {
    text: String,
    dir: PathBuf,
    shown: Vec<(usize, Shown)>,
}

impl Script {
    /// `blocks` behind `preamble`, each followed by the line `behind`. What they print goes to files
    /// of `dir`, as does the line of the block that is run.
    pub(crate) fn new<'a>(
        preamble: &str,
        blocks: impl IntoIterator<Item = &'a Block>,
        behind: &str,
        dir: &Path,
    ) -> Self {
        let mut script = Self { text: preamble.to_owned(), dir: dir.to_owned(), shown: Vec::new() };
        let at = script.at();
        for block in blocks {
            script.text += &format!("echo {} >{}\n", block.line, at.display());
            match &block.kind {
                Kind::Script(text) => script.text += text,
                Kind::Session(commands) => {
                    for shown in commands {
                        let file = script.printed(script.shown.len());
                        script.text +=
                            &format!("{{\n{}\n}} >{} 2>&1\n", shown.command, file.display());
                        script.shown.push((block.line, shown.clone()));
                    }
                }
                Kind::File { name, text } => {
                    script.text +=
                        &format!("cat >{name} <<'END_OF_THE_FILE'\n{text}END_OF_THE_FILE\n");
                }
                Kind::NotRun => {}
            }
            script.text += behind;
            script.text.push('\n');
        }
        script
    }

    /// Puts what is here in the place of the page's names, in what is shown, too.
    pub(crate) fn exchange(&mut self, name: &str, here: &str) {
        self.text = self.text.replace(name, here);
        for (_, shown) in &mut self.shown {
            shown.output = shown.output.take().map(|output| output.replace(name, here));
        }
    }

    /// From now on a command behind which the page shows nothing has to print nothing.
    #[allow(dead_code, reason = "not for docs/keys.md")]
    pub(crate) fn show_everything(&mut self) {
        for (_, shown) in &mut self.shown {
            shown.output.get_or_insert_default();
        }
    }

    /// Runs it by `bash`. The error is the block that failed, with what was said, or that printed
    /// something else.
    pub(crate) fn run(&self, bash: &mut Command) -> Result<(), String> {
        let file = self.dir.join("script");
        std::fs::write(&file, &self.text).unwrap();
        let output = bash.arg(&file).output().unwrap();
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        if !output.status.success() {
            let mut printed = (0..self.shown.len()).rev().map(|index| read(&self.printed(index)));
            return Err(format!(
                "the block at line {} fails\n{}{}{}",
                read(&self.at()).trim(),
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
                printed.find(|text| !text.is_empty()).unwrap_or_default(),
            ));
        }
        for (index, (line, Shown { command, output })) in self.shown.iter().enumerate() {
            let printed = read(&self.printed(index));
            if let Some(output) = output
                && printed.trim_end() != output.trim_end()
            {
                return Err(format!("line {line}: {command}\nprints {printed}\nnot    {output}"));
            }
        }
        Ok(())
    }

    fn at(&self) -> PathBuf {
        self.dir.join("at")
    }

    fn printed(&self, index: usize) -> PathBuf {
        self.dir.join(format!("printed-{index}"))
    }
}
