//! `odmoe serve` from its first line to its end.

mod support;

use odmoe_convert::random_model::RandomModel;
use support::{World, names};

#[test]
fn the_embedded_model_is_served_with_its_sum_printed() {
    let world = World::new();
    let mut server = world.serve(&[]);
    let printed = server.until_ready();
    for part in [
        "tiny-moe, embedded",
        "base",
        "KV cache",
        "48 of 192 experts, 25 %",
        "in all  =",
        "curl ",
        "limit",
    ] {
        assert!(printed.contains(part), "{printed} lacks {part}");
    }
    assert_eq!(server.get("/ready").0, 200);
    assert!(server.get("/v1/models").1.contains("tiny-moe"));
    assert!(
        server
            .get("/metrics")
            .1
            .contains("odmoe_model_load_progress_ratio 1")
    );
    assert_eq!(server.stop(), Some(0));
}

/// The cache folder is below a file, so nothing can be made below it, whoever runs the test.
#[test]
fn without_a_writable_home_two_servers_use_folders_of_their_own_and_remove_them() {
    let world = World::new();
    let home = world.write("file", "").join("cache");
    let temporary = world.path("temporary");
    std::fs::create_dir(&temporary).unwrap();
    let world = World::new()
        .with("XDG_CACHE_HOME", home.to_str().unwrap())
        .with("TMPDIR", temporary.to_str().unwrap());
    let mut servers = [world.serve(&[]), world.serve(&[])];
    for server in &mut servers {
        assert!(server.until_ready().contains("for this run"));
    }
    assert_eq!(names(&temporary).len(), 2);
    for server in servers {
        assert_eq!(server.stop(), Some(0));
    }
    assert_eq!(names(&temporary), Vec::<String>::new());
}

#[test]
fn a_folder_is_converted_once_and_recognised_later() {
    let world = World::new();
    let (folder, kept) = (world.path("hf"), world.path("kept"));
    RandomModel::default().write(&folder).unwrap();
    let arguments = [
        "--model",
        folder.to_str().unwrap(),
        "--store-dir",
        kept.to_str().unwrap(),
        "--served-model-name",
        "mine",
    ];
    let mut server = world.serve(&arguments);
    assert!(server.until_ready().contains("converted in"));
    assert!(server.get("/v1/models").1.contains("mine"));
    assert_eq!(server.stop(), Some(0));

    let made = || {
        let stores = kept.join("stores");
        let of = |name: &String| stores.join(name).join("manifest.json");
        let manifest = names(&stores)
            .iter()
            .map(of)
            .find(|path| path.exists())
            .unwrap();
        std::fs::metadata(manifest).unwrap().modified().unwrap()
    };
    let first = made();
    let mut server = world.serve(&arguments);
    server.until_ready();
    assert_eq!(server.stop(), Some(0));
    assert_eq!(made(), first);
}

#[test]
fn a_model_that_cannot_be_opened_ends_the_server_with_the_reason() {
    let world = World::new();
    let error = world.refused(1, &["--port", "0", "--memory-limit", "8MiB"]);
    assert!(error.contains("does not fit"), "{error}");
    world.write("store/manifest.json", "{}");
    let store = world.path("store");
    let error = world.refused(1, &["--port", "0", "--model", store.to_str().unwrap()]);
    assert!(error.contains("manifest.json"), "{error}");
}
