//! Pages of the documentation that are made from the programs: the reference of a command line, out of
//! the same definitions as its `--help`. A test of each program holds the page to them.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Result, bail};
use clap::{Arg, ArgAction, Command};

/// Set to `write`, [`hold`] writes the page in place of comparing it: `cargo xtask docs --write`.
pub const WRITE: &str = "SEALIFT_GENERATED_PAGES";

/// Fails if the page at `path`, from the repository's root, is not `text`.
pub fn hold(path: &str, text: &str) -> Result<()> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    if std::env::var_os(WRITE).is_some_and(|word| word == "write") {
        return Ok(std::fs::write(page, text)?);
    }
    if std::fs::read_to_string(page)? != text {
        bail!("{path} is not what the program says. Run: cargo xtask docs --write");
    }
    Ok(())
}

/// Every command of a program, with each option, its variable, its default and what it means.
pub fn reference(mut program: Command) -> String {
    program.build();
    let mut page = format!("# {}\n\n", program.get_name());
    page += "<!-- made from the program by cargo xtask docs --write -->\n\n";
    describe(&program, true, &mut page);
    below(&program, &mut page);
    page
}

fn below(command: &Command, page: &mut String) {
    for command in command.get_subcommands() {
        if command.is_hide_set() || command.get_name() == "help" {
            continue;
        }
        let name = command.get_bin_name().unwrap_or(command.get_name());
        let _ = write!(page, "## {name}\n\n");
        describe(command, false, page);
        below(command, page);
    }
}

fn describe(command: &Command, is_program: bool, page: &mut String) {
    let about = command.get_long_about().or(command.get_about());
    if let Some(about) = about {
        let _ = write!(page, "{}.\n\n", prose(&about.to_string()).trim_end_matches('.'));
    }
    let usage = command.clone().render_usage().to_string();
    let _ = write!(page, "```text\n{}\n```\n\n", usage.trim_start_matches("Usage: ").trim());
    let shown = |arg: &&Arg| {
        let ours = !["help", "version"].contains(&arg.get_id().as_str());
        // An option of every command is told of once.
        ours && !arg.is_hide_set() && (is_program || !arg.is_global_set())
    };
    let mut arguments = command.get_arguments().filter(shown).peekable();
    if arguments.peek().is_some() {
        *page += "| | variable | default | |\n|---|---|---|---|\n";
    }
    for argument in arguments {
        let _ = writeln!(page, "{}", row(argument));
    }
    *page += "\n";
    if let Some(more) = command.get_after_help() {
        let _ = write!(page, "{}\n\n", prose(&more.to_string()));
    }
}

fn row(argument: &Arg) -> String {
    let variable = argument.get_env().map(|name| format!("`{}`", name.to_string_lossy()));
    let defaults = argument.get_default_values().iter().map(|value| value.to_string_lossy());
    let default = defaults.collect::<Vec<_>>().join(",");
    let is_switch = !argument.get_action().takes_values();
    let default = match default.as_str() {
        "" => String::new(),
        _ if is_switch => String::new(),
        default => format!("`{default}`"),
    };
    let help = argument.get_long_help().or(argument.get_help());
    let mut means = help.map(|help| prose(&help.to_string())).unwrap_or_default();
    if argument.is_required_set() {
        means += ". Required";
    }
    if matches!(argument.get_action(), ArgAction::Append) && !means.contains("repeated") {
        means += ". May be repeated";
    }
    let values = argument.get_possible_values();
    let mut values = values.iter().filter(|value| !value.is_hide_set()).peekable();
    if !is_switch && values.peek().is_some() {
        let named = values.map(|value| match value.get_help() {
            Some(help) => format!("`{}` ({})", value.get_name(), prose(&help.to_string())),
            None => format!("`{}`", value.get_name()),
        });
        means += &format!(". One of {}", named.collect::<Vec<_>>().join(", "));
    }
    let cells = [form(argument), variable.unwrap_or_default(), default, means];
    format!("| {} |", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))
}

/// `` `-o`, `--output <OUTPUT>` ``
fn form(argument: &Arg) -> String {
    let values = argument.get_value_names().unwrap_or_default();
    let values: Vec<String> = values.iter().map(|name| format!("<{name}>")).collect();
    let values = match argument.get_action().takes_values() {
        true => values.join(" "),
        false => String::new(),
    };
    let optional = argument.get_num_args().is_some_and(|count| count.min_values() == 0);
    let Some(long) = argument.get_long() else { return format!("`{values}`") };
    let long = match (values.as_str(), optional) {
        ("", _) => format!("--{long}"),
        (values, true) => format!("--{long}[={values}]"),
        (values, false) => format!("--{long} {values}"),
    };
    match argument.get_short() {
        Some(short) => format!("`-{short}`, `{long}`"),
        None => format!("`{long}`"),
    }
}

/// Help on one line; outside of code nothing of it is markup.
fn prose(help: &str) -> String {
    let line = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let pieces = line.split('`').enumerate().map(|(number, piece)| match number % 2 {
        0 => piece.replace('<', "&lt;").replace('*', "\\*").replace('[', "\\["),
        _ => format!("`{piece}`"),
    });
    pieces.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_told_of_with_all_that_it_has() {
        let option = Arg::new("listen").short('l').long("listen").value_name("ADDRESS");
        let option = option.default_value("a|b").required(true).help("Where <to> `<listen>`");
        let hidden = Command::new("hidden").hide(true);
        let global = Arg::new("quiet").long("quiet").global(true).action(ArgAction::SetTrue);
        let sub = Command::new("serve").about("Serves.").arg(option);
        let program = Command::new("p").arg(global).subcommand(sub).subcommand(hidden);
        let page = reference(program);
        let row =
            "| `-l`, `--listen <ADDRESS>` |  | `a\\|b` | Where &lt;to> `<listen>`. Required |\n";
        assert!(page.contains(row), "{page}");
        assert!(page.contains("## p serve\n\nServes.\n\n```text\np serve "), "{page}");
        assert_eq!(page.matches("--quiet").count(), 1, "{page}");
        assert!(!page.contains("hidden"), "{page}");
    }

    #[test]
    fn a_stale_page_is_noticed() {
        assert!(hold("LICENSE", "").is_err());
        assert!(hold("docs/no-such-page.md", "").is_err());
    }
}
