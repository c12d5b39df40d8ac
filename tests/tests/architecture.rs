//! The arrows between crates are those that ARCHITECTURE.md draws, and they only point down.

use odmoe_tests::workspace::{Member, fenced_blocks, members, root};
use std::collections::{BTreeMap, BTreeSet};

type Arrows = BTreeMap<String, BTreeSet<String>>;

/// Lines `from -> to, to` of the fenced blocks with this info string.
fn drawn(info: &str) -> Arrows {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let blocks = fenced_blocks(&text, info);
    assert_eq!(blocks.len(), 1, "ARCHITECTURE.md needs one block ```{info}");
    let mut arrows = Arrows::new();
    for line in blocks[0].lines() {
        let (from, to) = line
            .split_once("->")
            .unwrap_or_else(|| panic!("{line:?} has no arrow"));
        let to = to
            .split(',')
            .map(|name| name.trim().to_string())
            .filter(|name| !name.is_empty());
        let twice = arrows.insert(from.trim().to_string(), to.collect());
        assert!(twice.is_none(), "{line:?}: drawn twice");
    }
    arrows
}

fn in_manifests(side: impl Fn(&Member) -> &BTreeSet<String>) -> Arrows {
    let arrows = members()
        .into_iter()
        .map(|member| (member.folder.clone(), side(&member).clone()));
    arrows.filter(|(_, to)| !to.is_empty()).collect()
}

#[track_caller]
fn assert_same(drawn: &Arrows, found: &Arrows, block: &str) {
    let flat = |arrows: &Arrows| -> BTreeSet<String> {
        arrows
            .iter()
            .flat_map(|(from, to)| to.iter().map(move |to| format!("{from} -> {to}")))
            .collect()
    };
    let (drawn, found) = (flat(drawn), flat(found));
    let undrawn: Vec<&String> = found.difference(&drawn).collect();
    let unused: Vec<&String> = drawn.difference(&found).collect();
    assert!(
        undrawn.is_empty() && unused.is_empty(),
        "ARCHITECTURE.md, block {block}: a new arrow is a change of architecture, to be argued for before it is \
         drawn.\n  in a manifest but not drawn: {undrawn:?}\n  drawn but in no manifest: {unused:?}"
    );
}

#[test]
fn arrows_are_those_that_are_drawn() {
    assert_same(
        &drawn("arrows"),
        &in_manifests(|member| &member.uses),
        "arrows",
    );
}

#[test]
fn arrows_of_tests_are_those_that_are_drawn() {
    assert_same(
        &drawn("test-arrows"),
        &in_manifests(|member| &member.tests_use),
        "test-arrows",
    );
}

#[test]
fn arrows_point_down() {
    // The workspace lists its members from the foundation to the edge.
    let order: Vec<String> = members().into_iter().map(|member| member.folder).collect();
    let height = |folder: &str| {
        order
            .iter()
            .position(|name| name == folder)
            .unwrap_or_else(|| panic!("{folder} is no member"))
    };
    for (from, to) in drawn("arrows") {
        for to in to {
            assert!(
                height(&to) < height(&from),
                "{from} -> {to} points up: see [workspace] members"
            );
        }
    }
}

#[test]
fn every_member_is_described() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    for member in members() {
        let heading = format!("### `{}`", member.folder);
        assert!(
            text.contains(&heading),
            "ARCHITECTURE.md has no section {heading}"
        );
    }
}
