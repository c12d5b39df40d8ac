//! `odmoe trace`: records routing, and judges policies and predictions by it.

use crate::cli::args::{CompareArgs, ReplayArgs, TraceArgs, TraceCommand};
use crate::cli::{Failure, generate, terminal};
use odmoe_bench::judge::{Foresight, Row, foresight};
use odmoe_bench::plot::{Line, svg};
use odmoe_bench::policies::Policy;
use odmoe_bench::recording::Recording;
use odmoe_bench::replay::HitCount;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// Does what is asked for.
pub fn run(args: &TraceArgs) -> Result<(), Failure> {
    match &args.command {
        TraceCommand::Record(args) if args.model.record_trace.is_none() => Err(Failure::Usage(
            "say where to: odmoe trace record --record-trace FILE".to_owned(),
        )),
        TraceCommand::Record(args) => generate::run(args),
        TraceCommand::Replay(args) => replay(args),
        TraceCommand::Compare(args) => compare(args),
    }
}

fn open(path: &Path) -> Result<Recording, Failure> {
    let named =
        |error: &dyn std::fmt::Display| Failure::Failed(format!("{}: {error}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| named(&error))?;
    let recording = Recording::read(&bytes).map_err(|error| named(&error))?;
    if recording.steps.uses() == 0 {
        return Err(named(
            &"nothing was asked for in this trace; record a longer one",
        ));
    }
    Ok(recording)
}

/// Rows of one policy, and what the recorded predictions knew of its misses.
fn replay(args: &ReplayArgs) -> Result<(), Failure> {
    let recording = open(&args.trace)?;
    let judged: Vec<(Row, Vec<(usize, Foresight)>)> = args
        .budgets
        .iter()
        .map(|percent| {
            let experts = recording.all_experts();
            let row = Row::of(&recording.steps, experts, *percent, &[args.eviction]);
            let of = |most: &usize| {
                (
                    *most,
                    foresight(&recording, args.eviction, row.slots, *most),
                )
            };
            let predictions = args.predictions.iter().map(of).collect();
            (row, predictions)
        })
        .collect();
    if args.json {
        let rows = judged.iter().map(|(row, predictions)| {
            let mut value = row_json(row);
            value["predictions"] = predictions.iter().map(foresight_json).collect();
            value
        });
        let rows: Vec<Value> = rows.collect();
        return terminal::print(&format!("{}\n", head(&recording, rows)));
    }
    let rows: Vec<Row> = judged.iter().map(|(row, _)| row.clone()).collect();
    let mut text = table(&rows);
    if !recording.hints.is_empty() {
        text.push_str("\n| budget | predictions | recall on misses | wanted of what is read |\n|---|---|---|---|\n");
        for (row, predictions) in &judged {
            for (most, found) in predictions {
                let share = |share: Option<f64>| {
                    share.map_or("none".to_owned(), |share| format!("{share:.3}"))
                };
                let (recall, precision) = (share(found.recall()), share(found.precision()));
                writeln!(
                    text,
                    "| {} % | {most} | {recall} | {precision} |",
                    row.percent
                )
                .expect("strings take everything");
            }
        }
    }
    terminal::print(&text)
}

fn compare(args: &CompareArgs) -> Result<(), Failure> {
    let recording = open(&args.trace)?;
    let policies = match args.policies.is_empty() {
        true => Policy::ALL.to_vec(),
        false => args.policies.clone(),
    };
    let mut budgets = args.budgets.clone();
    budgets.sort_by(f64::total_cmp);
    let experts = recording.all_experts();
    let rows: Vec<Row> = budgets
        .iter()
        .map(|percent| Row::of(&recording.steps, experts, *percent, &policies))
        .collect();
    if let Some(path) = &args.svg {
        let drawn = svg("Hit rate over memory for experts", &lines(&rows, &policies));
        std::fs::write(path, drawn)
            .map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    }
    if args.json {
        let rows = rows.iter().map(row_json).collect();
        return terminal::print(&format!("{}\n", head(&recording, rows)));
    }
    terminal::print(&table(&rows))
}

fn lines(rows: &[Row], policies: &[Policy]) -> Vec<Line> {
    let line = |name: &str, of: &dyn Fn(&Row) -> HitCount| Line {
        name: name.to_owned(),
        points: rows
            .iter()
            .map(|row| (row.percent, of(row).rate()))
            .collect(),
    };
    let mut lines = vec![line("Belady's optimum", &|row| row.best)];
    for (place, policy) in policies.iter().enumerate() {
        lines.push(line(policy.name(), &|row| row.policies[place].1));
    }
    lines
}

fn table(rows: &[Row]) -> String {
    let mut text = "| budget | slots | policy | hit rate | of the gap between LRU and Belady |\n|---|---|---|---|---|\n".to_owned();
    for row in rows {
        let mut line = |name: &str, found: HitCount| {
            let (rate, closed) = (found.rate(), 100.0 * row.gap_closed(found));
            let (percent, slots) = (row.percent, row.slots);
            writeln!(
                text,
                "| {percent} % | {slots} | {name} | {rate:.4} | {closed:.1} % |"
            )
            .expect("strings take everything");
        };
        for (policy, found) in &row.policies {
            line(policy.name(), *found);
        }
        line("Belady", row.best);
    }
    text
}

fn row_json(row: &Row) -> Value {
    let policies = row.policies.iter().map(|(policy, found)| {
        json!({
            "policy": policy.name(),
            "hit_rate": found.rate(),
            "gap_closed": row.gap_closed(*found),
        })
    });
    json!({
        "budget_percent": row.percent,
        "slots": row.slots,
        "policies": policies.collect::<Vec<Value>>(),
        "lru_hit_rate": row.lru.rate(),
        "belady_hit_rate": row.best.rate(),
    })
}

fn foresight_json((most, found): &(usize, Foresight)) -> Value {
    json!({
        "first": most,
        "misses": found.misses,
        "recall_on_misses": found.recall(),
        "precision": found.precision(),
    })
}

fn head(recording: &Recording, rows: Vec<Value>) -> Value {
    json!({
        "experts": recording.all_experts(),
        "demands": recording.steps.iter().len(),
        "uses": recording.steps.uses(),
        "hints": recording.hints.len(),
        "budgets": rows,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use odmoe_bench::recording::{self, Kind};
    use odmoe_expert_store::Phase;
    use odmoe_formats::ExpertKey;

    /// Three layers of four experts, of which a pass takes two each.
    fn trace(folder: &Path) -> std::path::PathBuf {
        let mut bytes = recording::header(&[4; 3]);
        for pass in 0..40_u32 {
            for layer in 0..3 {
                let indices = [pass % 3, 3];
                let keys = indices.map(|index| ExpertKey::routed(layer, index));
                recording::append(Kind::Demand(Phase::Decode), &keys, &mut bytes);
                let next = [ExpertKey::routed((layer + 1) % 3, 3)];
                recording::append(Kind::Hint(Phase::Decode), &next, &mut bytes);
            }
        }
        let path = folder.join("routing.trace");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn compares_and_draws() {
        let folder = tempfile::tempdir().unwrap();
        let args = CompareArgs {
            trace: trace(folder.path()),
            policies: vec![],
            budgets: vec![50.0, 25.0],
            svg: Some(folder.path().join("plot.svg")),
            json: false,
        };
        compare(&args).unwrap_or_else(|error| panic!("{error:?}"));
        let drawn = std::fs::read_to_string(folder.path().join("plot.svg")).unwrap();
        assert_eq!(drawn.matches("<polyline").count(), Policy::ALL.len() + 1);

        let recording = open(&args.trace).unwrap_or_else(|error| panic!("{error:?}"));
        let row = Row::of(&recording.steps, 12, 50.0, &Policy::ALL);
        assert_eq!(row.slots, 6);
        let text = table(std::slice::from_ref(&row));
        assert_eq!(text.lines().count(), 2 + Policy::ALL.len() + 1);
        assert!(
            text.ends_with(&format!("{:.4} | 100.0 % |\n", row.best.rate())),
            "{text}"
        );
        let value = head(&recording, vec![row_json(&row)]);
        assert_eq!(
            (&value["experts"], &value["hints"]),
            (&json!(12), &json!(120))
        );
        assert_eq!(value["budgets"][0]["policies"][0]["gap_closed"], json!(0.0));
    }

    #[test]
    fn a_file_that_is_no_trace_is_said_to_be_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other");
        for (bytes, said) in [
            (b"text".to_vec(), "no routing trace"),
            (recording::header(&[4]), "record a longer one"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let Err(Failure::Failed(message)) = open(&path) else {
                panic!("it was opened");
            };
            assert!(message.contains(said), "{message}");
        }
    }
}
