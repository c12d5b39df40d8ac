//! The second half of a sparse layer: its resident part, around the routed experts that are paged.

use super::{LayerLoader, RmsNorm, SharedExpert};
use crate::api::StartError;
use crate::model::Step;
use odmoe_backend::{BackendError, Buffer, ChoiceOrder, ExpertGroup, Op, Scoring, Weight};
use odmoe_formats::names::LayerTensor;

/// hidden += sum of the chosen experts' outputs over norm(hidden), weighted by the router, and the shared expert's
/// where there is one.
///
/// The lane calls [`route`](Self::route), asks for the chosen experts, calls [`shared`](Self::shared) while they are
/// read, [`experts`](Self::experts) for each set that has landed, and [`combine`](Self::combine) once none is missing.
pub struct RoutedLayer {
    /// After attention.
    pub norm: RmsNorm,
    /// [E, H], a float format.
    pub router: Weight,
    /// What every token passes through, where the family has it.
    pub shared: Option<SharedExpert>,
    /// K.
    pub top_k: usize,
    /// How router logits become weights.
    pub scoring: Scoring,
}

impl RoutedLayer {
    /// From the canonical tensors of a layer, without a shared expert.
    pub fn load(loader: &mut LayerLoader<'_, '_>, scoring: Scoring) -> Result<Self, StartError> {
        let (experts, hidden) = (loader.config.num_experts() as usize, loader.hidden());
        Ok(Self {
            norm: loader.norm(LayerTensor::PostAttentionNorm, hidden)?,
            router: loader.float_matrix(LayerTensor::Router, experts, hidden)?,
            shared: None,
            top_k: loader.config.num_experts_per_tok() as usize,
            scoring,
        })
    }

    /// normed = norm(hidden); choices [T, K] = the experts of each row, ascending.
    pub fn route(&self, step: Step<'_>) -> Result<(), BackendError> {
        let scratch = step.scratch;
        let target = (&scratch.normed, &scratch.choices);
        self.score(step, target, self.top_k, ChoiceOrder::ByExpert)
    }

    /// predicted [T, P] = what this layer's router would choose for the residual stream as it is now, most likely
    /// first. Called a layer ahead: the stream changes little from one layer to the next.
    pub fn predict(&self, step: Step<'_>, predict_top: usize) -> Result<(), BackendError> {
        // The projection's buffer is free between attention and the next half layer.
        let target = (&step.scratch.projected, &step.scratch.predicted);
        self.score(step, target, predict_top, ChoiceOrder::ByScore)
    }

    /// hidden += the shared expert's output, where there is one. Comes before [`combine`](Self::combine), always: the
    /// order of the two sums is part of the result.
    pub fn shared(&self, step: Step<'_>) -> Result<(), BackendError> {
        match &self.shared {
            Some(shared) => shared.enqueue(step),
            None => Ok(()),
        }
    }

    /// expert_out of the rows of `groups`, whose weights must stay in place until an event recorded after this.
    pub fn experts(&self, step: Step<'_>, groups: Vec<ExpertGroup>) -> Result<(), BackendError> {
        step.queue.push(Op::ExpertFfn {
            x: step.scratch.normed.clone(),
            groups,
            out: step.scratch.expert_out.clone(),
        })
    }

    /// hidden += the weighted sum of every row's expert outputs, in ascending expert order.
    pub fn combine(&self, step: Step<'_>) -> Result<(), BackendError> {
        step.queue.push(Op::CombineExperts {
            expert_out: step.scratch.expert_out.clone(),
            choices: step.scratch.choices.clone(),
            into: step.scratch.hidden.clone(),
            tokens: step.pass.tokens,
            top_k: self.top_k,
            hidden: self.router.columns,
        })
    }

    fn score(
        &self,
        step: Step<'_>,
        (normed, out): (&Buffer, &Buffer),
        top_k: usize,
        order: ChoiceOrder,
    ) -> Result<(), BackendError> {
        let tokens = step.pass.tokens;
        self.norm
            .enqueue(step.queue, &step.scratch.hidden, normed, tokens)?;
        step.queue.push(Op::Route {
            x: normed.clone(),
            weight: self.router.clone(),
            tokens,
            top_k,
            scoring: self.scoring,
            order,
            out: out.clone(),
        })
    }
}
