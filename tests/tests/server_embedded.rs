//! The embedded model serves from anywhere.

use odmoe_tests::client::answer;
use odmoe_tests::{Server, ServerOptions, binary::odmoe_binary, metrics};
use std::path::PathBuf;

/// A file system where nobody, root included, may make a folder.
const READ_ONLY_HOME: &str = "/proc/sys";

/// Two servers at once, from a copy of the binary away from the checkout, without a writable home. `.ci/run` repeats
/// it with a binary whose checkout is gone.
#[test]
fn two_servers_start_at_once_without_a_checkout_or_a_writable_home() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let binary = folder.path().join("odmoe");
    std::fs::copy(odmoe_binary(), &binary).expect("a copy of the binary");
    let temporary = folder.path().join("tmp");
    std::fs::create_dir(&temporary).expect("a temporary folder");
    let options = ServerOptions {
        binary: Some(binary),
        home: Some(PathBuf::from(READ_ONLY_HOME)),
        working_folder: Some(temporary.clone()),
        environment: vec![("TMPDIR".into(), temporary.display().to_string())],
        ..ServerOptions::default()
    };
    let mut servers = [Server::spawn(&options), Server::spawn(&options)];
    servers.iter_mut().for_each(Server::wait_until_ready);
    let answers = servers
        .each_ref()
        .map(|server| answer(&server.client.complete_tokens(&[954, 671, 261], 8)));
    assert_eq!(answers[0], answers[1]);
    for server in &mut servers {
        assert!(server.stop().success(), "{}", server.log());
    }
    let left: Vec<PathBuf> = std::fs::read_dir(&temporary)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn servers_that_share_a_fresh_cache_folder_unpack_it_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = ServerOptions {
        home: Some(folder.path().to_path_buf()),
        ..ServerOptions::default()
    };
    let mut servers = [Server::spawn(&options), Server::spawn(&options)];
    servers.iter_mut().for_each(Server::wait_until_ready);
    // Panics where there is more than one.
    odmoe_tests::store_files::StoreFolder::find(folder.path());
    let answers = servers
        .each_ref()
        .map(|server| answer(&server.client.complete_tokens(&[954, 671, 261], 8)));
    assert_eq!(answers[0], answers[1]);
}

/// What lies in the cache folder is checked before it is served.
#[test]
fn a_damaged_unpacked_model_is_not_served_wrongly() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = ServerOptions {
        home: Some(folder.path().to_path_buf()),
        ..ServerOptions::default()
    };
    let right = {
        let server = Server::start(&options);
        answer(&server.client.complete_tokens(&[954, 671, 261], 8))
    };
    let store = odmoe_tests::store_files::StoreFolder::find(folder.path());
    let every_expert: Vec<PathBuf> = (0..store.sparse_layers())
        .flat_map(|layer| store.expert_files(layer))
        .collect();
    odmoe_tests::store_files::Damage::flip_one_bit(&every_expert);
    let server = Server::start(&options);
    let reply = server.client.complete_tokens(&[954, 671, 261], 8);
    match reply.status {
        // It was found at the start and unpacked again.
        200 => assert_eq!(answer(&reply), right),
        // It was found at the page-in.
        _ => assert_eq!(
            reply.expect(500).json()["error"]["code"],
            "expert_unavailable"
        ),
    }
}

#[test]
fn a_taken_port_is_an_error_that_names_the_flag() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mut server = Server::spawn(&ServerOptions {
        port: Some(port),
        ..ServerOptions::default()
    });
    let status = server.wait();
    assert_eq!(status.code(), Some(1), "{}", server.log());
    odmoe_tests::process::eventually("the error on the standard error stream", || {
        let log = server.log();
        (log.contains("--port") && log.contains(&port.to_string())).then_some(())
    });
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        ["--no-such-flag", "1"],
        ["--expert-cache", "many"],
        ["--port", "-3"],
    ] {
        let mut server = Server::spawn(&ServerOptions::with(arguments));
        assert_eq!(
            server.wait().code(),
            Some(2),
            "{arguments:?}: {}",
            server.log()
        );
    }
}

/// Experts that decode found in memory, and all that it asked for.
fn decode_lookups(server: &Server) -> (f64, f64) {
    let scraped = server.client.get("/metrics").expect(200).body;
    let lookups = |labels: &[&str]| {
        let metric = "odmoe_expert_cache_lookups_total";
        metrics::sum(&scraped, metric, &[labels, &["phase=\"decode\""]].concat())
    };
    (lookups(&["result=\"hit\""]), lookups(&[]))
}

#[test]
fn a_long_prompt_leaves_decode_its_experts() {
    for budget in ["25%", "50%"] {
        let server = Server::start(&ServerOptions::with([
            "--expert-cache",
            budget,
            "--no-prefetch",
        ]));
        let hit_rate = || {
            let (hits, all) = decode_lookups(&server);
            answer(&server.client.complete_tokens(&[954, 671, 261], 33));
            let (more_hits, more) = decode_lookups(&server);
            (more_hits - hits) / (more - all)
        };
        hit_rate();
        let before = hit_rate();
        let prompt: Vec<u32> = (0..512).map(|place| 300 + place * 7919 % 3500).collect();
        answer(&server.client.complete_tokens(&prompt, 1));
        let after = hit_rate();
        println!("{budget}: {before:.3} of lookups hit before the prompt, {after:.3} after it");
        assert!(before > 0.2 && before < 1.0, "{budget}: {before}");
        assert!(after > before - 0.05, "{budget}: {before}, then {after}");
    }
}
