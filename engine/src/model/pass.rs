//! The rows of one lane pass.

use crate::api::{Pooling, RequestId};
use crate::scheduler::{LanePlan, LaneSpan};
use odmoe_backend::{AttentionSpan, KvPosition};
use std::ops::Range;
use std::sync::Arc;

/// One sequence's rows in a pass.
pub struct PassSpan {
    /// Whose.
    pub id: RequestId,
    /// Its rows in every activation buffer.
    pub rows: Range<usize>,
    /// Its place among the sampled rows, and the position of the token sampled there.
    pub sample: Option<(usize, usize)>,
    /// What is wanted of its rows where they are part of a text to embed. Such rows are never sampled.
    pub pooled: Option<PooledRows>,
    /// False once the sequence has ended: its rows are computed on but ask for no experts and are not sampled.
    pub live: bool,
}

/// The states of a text's tokens that are wanted.
pub struct PooledRows {
    /// Their places among the pass's pooled rows; may be none.
    pub rows: Range<usize>,
    /// Absolute position of the span's first token.
    pub first_position: usize,
    /// Whether the text ends here.
    pub ends: bool,
}

/// The rows of a lane pass: consecutive spans of one sequence each, as ops want them.
pub struct Pass {
    /// T.
    pub tokens: usize,
    /// Token ids, one a row.
    pub ids: Arc<[u32]>,
    /// Absolute positions, one a row.
    pub positions: Arc<[u32]>,
    /// Where each row's key and value go.
    pub kv_positions: Arc<[KvPosition]>,
    /// Who attends to what.
    pub attention: Arc<[AttentionSpan]>,
    /// The rows whose logits are wanted.
    pub sampled_rows: Arc<[u32]>,
    /// The rows whose states are wanted.
    pub pooled_rows: Arc<[u32]>,
    /// The sequences.
    pub spans: Vec<PassSpan>,
}

impl Pass {
    /// Lays a plan's spans out one after another. `pooling` tells which sequences are texts to embed.
    pub fn new(
        plan: &LanePlan,
        block_tokens: usize,
        pooling: impl Fn(RequestId) -> Option<Pooling>,
    ) -> Self {
        let (mut spans, mut first_row) = (Vec::new(), 0);
        let (mut sampled_rows, mut pooled_rows) = (Vec::new(), Vec::new());
        for span in &plan.spans {
            let rows = first_row..first_row + span.tokens.len();
            first_row = rows.end;
            let pooling = pooling(span.id);
            let pooled = pooling.map(|pooling| pool(pooling, span, &rows, &mut pooled_rows));
            let is_sampled = span.samples && pooled.is_none();
            let sample = is_sampled.then(|| (sampled_rows.len(), span.sample_position()));
            if is_sampled {
                sampled_rows.push((rows.end - 1) as u32);
            }
            spans.push(PassSpan {
                id: span.id,
                rows,
                sample,
                pooled,
                live: true,
            });
        }
        let attention = plan
            .spans
            .iter()
            .zip(&spans)
            .map(|(span, place)| attend(span, place))
            .collect();
        let positions =
            |span: &LaneSpan| (span.first_position..span.sample_position()).map(|p| p as u32);
        Self {
            tokens: first_row,
            ids: plan
                .spans
                .iter()
                .flat_map(|span| &span.tokens)
                .copied()
                .collect(),
            positions: plan.spans.iter().flat_map(positions).collect(),
            kv_positions: plan
                .spans
                .iter()
                .flat_map(|span| span.kv_positions(block_tokens))
                .collect(),
            attention,
            sampled_rows: sampled_rows.into(),
            pooled_rows: pooled_rows.into(),
            spans,
        }
    }

    /// Marks a sequence as ended. Returns whether it has rows here.
    pub fn end(&mut self, id: RequestId) -> bool {
        let span = self
            .spans
            .iter_mut()
            .find(|span| span.id == id && span.live);
        span.map(|span| span.live = false).is_some()
    }

    /// Whether any sequence still wants this pass.
    pub fn is_live(&self) -> bool {
        self.spans.iter().any(|span| span.live)
    }

    /// The sequences that still want this pass.
    pub fn live_spans(&self) -> impl Iterator<Item = &PassSpan> {
        self.spans.iter().filter(|span| span.live)
    }
}

/// Adds the rows of a span whose states are wanted: all, or the text's last.
fn pool(
    pooling: Pooling,
    span: &LaneSpan,
    rows: &Range<usize>,
    pooled_rows: &mut Vec<u32>,
) -> PooledRows {
    let first_place = pooled_rows.len();
    let wanted = match pooling {
        Pooling::Mean => rows.clone(),
        Pooling::Last if span.samples => rows.end - 1..rows.end,
        Pooling::Last => rows.end..rows.end,
    };
    pooled_rows.extend(wanted.map(|row| row as u32));
    PooledRows {
        rows: first_place..pooled_rows.len(),
        first_position: span.first_position,
        ends: span.samples,
    }
}

fn attend(span: &LaneSpan, place: &PassSpan) -> AttentionSpan {
    AttentionSpan {
        first_row: place.rows.start,
        rows: place.rows.len(),
        first_position: span.first_position,
        blocks: span.blocks.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::LaneKind;

    fn span(
        id: u64,
        first_position: usize,
        tokens: &[u32],
        blocks: &[u32],
        samples: bool,
    ) -> LaneSpan {
        LaneSpan {
            id: RequestId(id),
            first_position,
            tokens: tokens.to_vec(),
            blocks: blocks.into(),
            samples,
        }
    }

    #[test]
    fn spans_lie_one_after_another() {
        let spans = vec![
            span(1, 3, &[10, 11, 12], &[7, 2], true),
            span(2, 0, &[20], &[5], false),
            span(3, 8, &[30, 31], &[1, 9, 4], true),
        ];
        let plan = LanePlan {
            kind: LaneKind::Prefill,
            spans,
            preempted: vec![],
            lookups: Default::default(),
        };
        let pass = Pass::new(&plan, 4, |_| None);
        assert_eq!(pass.tokens, 6);
        assert_eq!(*pass.ids, [10, 11, 12, 20, 30, 31]);
        assert_eq!(*pass.positions, [3, 4, 5, 0, 8, 9]);
        let places: Vec<_> = pass
            .kv_positions
            .iter()
            .map(|p| (p.block, p.offset))
            .collect();
        assert_eq!(places, [(7, 3), (2, 0), (2, 1), (5, 0), (4, 0), (4, 1)]);
        assert_eq!(*pass.sampled_rows, [2, 5]);
        let samples: Vec<_> = pass.spans.iter().map(|span| span.sample).collect();
        assert_eq!(samples, [Some((0, 6)), None, Some((1, 10))]);
        let attention: Vec<_> = pass
            .attention
            .iter()
            .map(|a| (a.first_row, a.rows, a.first_position))
            .collect();
        assert_eq!(attention, [(0, 3, 3), (3, 1, 0), (4, 2, 8)]);
    }

    #[test]
    fn texts_to_embed_are_pooled_and_not_sampled() {
        let spans = vec![
            span(1, 3, &[10, 11], &[7, 2], true),
            span(2, 2, &[20, 21], &[5], true),
            span(3, 0, &[30, 31], &[1], false),
            span(4, 0, &[40], &[3], false),
        ];
        let plan = LanePlan {
            kind: LaneKind::Prefill,
            spans,
            preempted: vec![],
            lookups: Default::default(),
        };
        let pooling = |id| match id {
            RequestId(2 | 3) => Some(Pooling::Last),
            RequestId(4) => Some(Pooling::Mean),
            _ => None,
        };
        let pass = Pass::new(&plan, 4, pooling);
        assert_eq!(*pass.sampled_rows, [1]);
        assert_eq!(*pass.pooled_rows, [3, 6]);
        let pooled: Vec<_> = pass
            .spans
            .iter()
            .map(|span| span.pooled.as_ref())
            .map(|pooled| pooled.map(|p| (p.rows.clone(), p.first_position, p.ends)))
            .collect();
        assert_eq!(
            pooled,
            [
                None,
                Some((0..1, 2, true)),
                Some((1..1, 0, false)),
                Some((1..2, 0, false))
            ]
        );
        assert!(pass.spans[1].sample.is_none());
    }

    #[test]
    fn a_pass_lives_as_long_as_one_sequence_wants_it() {
        let spans = vec![span(1, 0, &[1], &[0], true), span(2, 0, &[2], &[1], true)];
        let plan = LanePlan {
            kind: LaneKind::Decode,
            spans,
            preempted: vec![],
            lookups: Default::default(),
        };
        let mut pass = Pass::new(&plan, 4, |_| None);
        assert!(!pass.end(RequestId(9)));
        assert!(pass.end(RequestId(1)) && pass.is_live());
        assert_eq!(
            pass.live_spans().map(|span| span.id).collect::<Vec<_>>(),
            [RequestId(2)]
        );
        assert!(pass.end(RequestId(2)) && !pass.is_live());
    }
}
