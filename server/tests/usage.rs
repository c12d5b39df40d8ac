//! Exit codes, and where options come from.

mod support;

use std::net::TcpListener;
use support::World;

#[test]
fn help_and_version_are_no_errors() {
    let world = World::new();
    assert!(world.done(&["--help"]).contains("bench"));
    assert!(
        world
            .done(&["serve", "--help"])
            .contains("ODMOE_EXPERT_CACHE")
    );
    assert!(world.done(&["--version"]).starts_with("odmoe "));
}

#[test]
fn wrong_usage_is_2_and_says_what_is_wrong() {
    let world = World::new();
    let check = |arguments: &[&str], part: &str| {
        let error = world.refused(2, arguments);
        assert!(
            error.contains(part),
            "{arguments:?}: {error} lacks {part:?}"
        );
    };
    check(&["dance"], "dance");
    check(&["generate"], "--prompt");
    check(&["serve", "--expert-cache", "half"], "share of all experts");
    check(&["serve", "--kv-format", "f8"], "f16, f32 or q8_0");
    check(&["serve", "--cpu", "gpu"], "avx512");
    check(&["serve", "--threads", "0"], "--threads");
    check(&["--host", "0.0.0.0", "--port", "0"], "--api-key");
    check(&["bench", "--prompt-tokens", "5000"], "context");
    check(&["bench", "--work", "1x5000+1"], "context");
    check(&["bench", "--work", "1x8"], "STREAMSxPROMPT+NEW");
    check(&["bench", "--work", "1x8+1", "--streams", "2"], "--streams");
}

#[test]
fn failures_are_1_and_say_what_to_do() {
    let world = World::new();
    let error = world.refused(1, &["generate", "--prompt", "x", "--memory-limit", "1MiB"]);
    assert!(
        error.contains("does not fit") && error.contains("--memory-limit"),
        "{error}"
    );
    let error = world.refused(1, &["generate", "--prompt", "x", "--expert-cache", "1KiB"]);
    assert!(
        error.contains("--expert-cache") && error.contains("the least is"),
        "{error}"
    );
    assert!(
        world
            .refused(1, &["serve", "--model", "/nowhere"])
            .contains("/nowhere")
    );
    let empty = world.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let error = world.refused(
        1,
        &[
            "convert",
            empty.to_str().unwrap(),
            world.path("out").to_str().unwrap(),
        ],
    );
    assert!(error.contains("config.json"), "{error}");
}

/// Each layer names a port that is taken, and the error tells which one was tried.
#[test]
fn flags_win_over_the_environment_and_it_over_the_file() {
    let taken: Vec<TcpListener> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let ports: Vec<String> = taken
        .iter()
        .map(|t| t.local_addr().unwrap().port().to_string())
        .collect();
    let tried = |world: &World, arguments: &[&str], port: &str| {
        let error = world.refused(1, arguments);
        assert!(
            error.contains(&format!("port {port} ")) && error.contains("--port"),
            "{error}"
        );
    };
    let file = format!("port = {}\n", ports[0]);

    let world = World::new();
    world.write("config/odmoe/config.toml", &file);
    tried(&world, &["serve"], &ports[0]);
    tried(&world, &[], &ports[0]);

    let world = World::new().with("ODMOE_PORT", &ports[1]);
    let named = world.write("named.toml", &file);
    let named = named.to_str().unwrap();
    tried(&world, &["serve", "--config", named], &ports[1]);
    tried(&world, &["--config", named, "--port", &ports[2]], &ports[2]);
}

#[test]
fn a_bad_file_or_variable_is_named() {
    let world = World::new().with("ODMOE_KV_CACHE", "much");
    assert!(world.refused(2, &["serve"]).contains("much"));

    let world = World::new();
    let check = |text: &str, part: &str| {
        let path = world.write("bad.toml", text);
        let path = path.to_str().unwrap();
        let error = world.refused(2, &["serve", "--config", path]);
        assert!(error.contains(path) && error.contains(part), "{error}");
    };
    check("prot = 1\n", "prot");
    check("config = \"x\"\n", "config");
    check("port = \"many\"\n", "many");
    check("port = [1]\n", "port");
    check("port = \n", "port");
    assert!(
        world
            .refused(2, &["serve", "--config", "/nowhere.toml"])
            .contains("/nowhere.toml")
    );
}

#[test]
fn a_switch_can_be_set_in_the_file_and_in_the_environment() {
    let world = World::new().with("ODMOE_NO_PREFETCH", "yes");
    world.write(
        "config/odmoe/config.toml",
        "no-prefetch = true\nreaders = 2\n",
    );
    assert!(
        world
            .done(&["generate", "--prompt", "a", "--max-tokens", "1", "--json"])
            .contains("token_ids")
    );
    let world = World::new().with("ODMOE_NO_PREFETCH", "perhaps");
    assert!(
        world
            .refused(2, &["generate", "--prompt", "a"])
            .contains("perhaps")
    );
}

/// `odmoe inspect --json | head -c 0`: nobody reads any more, which is no failure.
#[test]
fn a_closed_output_is_a_quiet_end() {
    let world = World::new();
    let commands: [&[&str]; 4] = [
        &["inspect"],
        &["inspect", "--json"],
        &["generate", "--prompt", "a", "--max-tokens", "4"],
        &["generate", "--prompt", "a", "--max-tokens", "4", "--json"],
    ];
    for arguments in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = world.command(arguments).stdout(writer).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.status.code(), &*error),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
}
