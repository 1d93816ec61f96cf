//! `certhookd generate`: manual pages and shell completions of this binary, for packages.
//!
//! A subcommand rather than a build script: builds stay as quick as they are, and no second binary has to be built.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// What the page of `certhookd` says beyond its options: sections, each of terms and what they mean.
const SECTIONS: [(&str, &[(&str, &str)]); 4] = [
    (
        "SIGNALS",
        &[
            ("SIGUSR1", "Scan now; while one scan runs, exactly one more follows."),
            ("SIGUSR2", "Log the state of everything in one line."),
            ("SIGHUP", "Read the configuration again; a bad file is refused."),
            (
                "SIGTERM, SIGINT",
                "Finish what is in flight within service.shutdown_grace, and end.",
            ),
        ],
    ),
    (
        "EXIT STATUS",
        &[
            ("0", "Done."),
            ("1", "Failed."),
            ("2", "Bad usage."),
            ("78", "Bad configuration."),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            (
                "CERTHOOKD_SECTION__KEY",
                "Overrides one key of the configuration, e.g. CERTHOOKD_DELIVERY__CONCURRENCY=3.",
            ),
            ("CERTHOOKD_LOG", "What is logged, e.g. certhookd=debug."),
        ],
    ),
    (
        "FILES",
        &[
            (
                "/etc/certhookd/config.toml",
                "The configuration of the systemd unit; it lists every key.",
            ),
            (
                "/etc/credstore/mongodb-uri",
                "MongoDB's connection string, as a systemd credential.",
            ),
            (
                "/etc/credstore/secret-keys",
                "The keys of encrypted secrets of endpoints, as a systemd credential.",
            ),
        ],
    ),
];

/// Writes `man/*.1` and `completions/*` below `directory`, which it makes where it is missing.
///
/// # Errors
/// The file that can't be written.
pub(super) fn run(directory: &Path) -> Result<()> {
    let command = visible(super::Args::command());
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    for directory in [&man, &completions] {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    write(command, &man, &completions).with_context(|| format!("cannot write to {}", directory.display()))
}

/// The command without what is hidden from people: completions would offer it.
fn visible(command: Command) -> Command {
    let shown = command.get_subcommands().filter(|one| !one.is_hide_set());
    Command::new("certhookd")
        .version(env!("CARGO_PKG_VERSION"))
        .about(command.get_about().cloned().unwrap_or_default())
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .args(command.get_arguments())
        .subcommands(shown)
}

fn write(mut command: Command, man: &Path, completions: &Path) -> std::io::Result<()> {
    clap_mangen::generate_to(command.clone(), man)?;
    let mut page = File::create(man.join("certhookd.1"))?;
    Man::new(command.clone()).render(&mut page)?;
    more().to_writer(&mut page)?;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut command, "certhookd", completions)?;
    }
    Ok(())
}

fn more() -> Roff {
    let mut roff = Roff::new();
    for (section, terms) in SECTIONS {
        roff.control("SH", [section]);
        for (term, meaning) in terms {
            roff.control("TP", []);
            roff.text([bold(*term)]);
            roff.text([roman(*meaning)]);
        }
    }
    roff
}
