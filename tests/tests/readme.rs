//! README.md's marked commands run, from the repository's root, and say what it shows.
//!
//! A block of ```sh after a line `<!-- run -->` is run by `sh -eu`. A ```text block that follows it after a line
//! `<!-- shows -->` is what it prints: each of its lines must come, in this order, where `…` stands for anything.
//! `<!-- serve -->` marks the one command that starts the server: it is started first, on its own port and without
//! Cargo, and serves while the others run; their `8000` becomes that port. `cargo run --release --` in a command
//! becomes `odmoe`, the binary under test: the release build is checked elsewhere. What needs another machine, a
//! download or minutes stays unmarked.

use odmoe_tests::workspace::root;
use odmoe_tests::{Server, ServerOptions};
use std::process::Command;

#[derive(Debug, Default, PartialEq)]
struct Step {
    serves: bool,
    command: String,
    shows: Option<String>,
}

/// The marked blocks, in order.
fn steps(readme: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = readme.lines().filter(|line| !line.is_empty());
    while let Some(line) = lines.next() {
        let mark = line.trim();
        if !["<!-- run -->", "<!-- serve -->", "<!-- shows -->"].contains(&mark) {
            continue;
        }
        let fence = lines.next().unwrap_or_default();
        let wanted = if mark == "<!-- shows -->" {
            "```text"
        } else {
            "```sh"
        };
        assert_eq!(fence, wanted, "after {mark}");
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        match mark {
            "<!-- shows -->" => {
                let step = steps.last_mut().expect("something ran before it shows");
                assert!(
                    step.shows.replace(block.join("\n")).is_none(),
                    "a command shows one thing"
                );
            }
            _ => steps.push(Step {
                serves: mark == "<!-- serve -->",
                command: block.join("\n"),
                shows: None,
            }),
        }
    }
    steps
}

/// Whether the lines of `shown` come in `output` in their order; `…` stands for anything within a line.
#[track_caller]
fn assert_shown(shown: &str, output: &str) {
    let mut rest = output.lines();
    for wanted in shown.lines().filter(|line| line.trim() != "…") {
        let found = rest.any(|line| matches(wanted.trim(), line.trim()));
        assert!(
            found,
            "README.md shows {wanted:?}, which did not come (in its place):\n{output}"
        );
    }
}

fn matches(wanted: &str, line: &str) -> bool {
    let mut parts = wanted.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let mut open_end = false;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        open_end = part.is_empty();
    }
    open_end || rest.is_empty()
}

#[test]
fn marked_commands_run_and_show_what_they_say() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    let steps = steps(&readme);
    assert_eq!(
        steps.iter().filter(|step| step.serves).count(),
        1,
        "one <!-- serve -->"
    );
    assert!(steps.len() > 1, "README.md marks no command to run");

    let server = Server::start(&ServerOptions::default());
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let binary_folder = odmoe_tests::binary::odmoe_binary()
        .parent()
        .expect("a folder")
        .to_path_buf();
    let path = std::env::var_os("PATH").expect("PATH");
    let path = std::env::join_paths(
        [binary_folder]
            .into_iter()
            .chain(std::env::split_paths(&path)),
    );
    let path = path.expect("folders without colons");
    for step in steps {
        if step.serves {
            assert!(
                step.command.starts_with("cargo run --release"),
                "{}",
                step.command
            );
            step.shows
                .inspect(|shown| assert_shown(&at_port(shown, server.port), &server.log()));
            continue;
        }
        let output = Command::new("sh")
            .args([
                "-euc",
                &at_port(&step.command, server.port).replace("cargo run --release -- ", "odmoe "),
            ])
            .current_dir(root())
            .env("PATH", &path)
            .env("HOME", scratch.path())
            .env("XDG_CACHE_HOME", scratch.path().join("cache"))
            .output()
            .expect("sh runs");
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{}\n{out}{err}", step.command);
        step.shows
            .inspect(|shown| assert_shown(shown, &format!("{out}{err}")));
    }
}

fn at_port(text: &str, port: u16) -> String {
    text.replace(":8000", &format!(":{port}"))
}

#[test]
fn marks_are_read_and_compared() {
    let text = "a\n<!-- run -->\n```sh\nb\nc\n```\n\n<!-- shows -->\n\n```text\nd\n```\n<!-- serve -->\n```sh\ne\n```\n";
    let run = Step {
        serves: false,
        command: "b\nc".into(),
        shows: Some("d".into()),
    };
    let serve = Step {
        serves: true,
        command: "e".into(),
        shows: None,
    };
    assert_eq!(steps(text), [run, serve]);

    assert_shown("one …\n…\nthree", "zero\none 1\ntwo\nthree");
    assert!(
        matches("a…c…", "abcd") && matches("…", "") && matches("a…", "a") && matches("a…d", "abcd")
    );
    assert!(!matches("a…c", "abcd") && !matches("b…", "abcd") && !matches("abc", "abcd"));
}
