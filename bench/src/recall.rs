//! How many of a layer's experts a prediction names.

use crate::trace::Ranking;

/// Recall@k: of the experts that the router chose, the share that the first `k` predicted ones hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Recall {
    /// By predicted layer, in order.
    pub by_layer: Vec<f64>,
}

impl Recall {
    /// Over all predicted layers.
    pub fn mean(&self) -> f64 {
        self.by_layer.iter().sum::<f64>() / self.by_layer.len() as f64
    }
}

/// Compares predictions for the layers after the first with what those layers' routers chose. Entry `l` of a token's
/// predictions is for layer `l + 1`. Shapes that do not fit are a bug of the caller.
pub fn recall_at(chosen: &Ranking, predicted: &Ranking, k: usize) -> Recall {
    let layers = predicted.shape().layers;
    assert_eq!(
        chosen.shape().layers,
        layers + 1,
        "one prediction for each layer but the first"
    );
    assert_eq!(
        chosen.tokens(),
        predicted.tokens(),
        "one prediction for each token"
    );
    assert!(
        (1..=predicted.shape().ranked).contains(&k),
        "recall@{k} of {} ranks",
        predicted.shape().ranked
    );
    let per_layer = chosen.tokens() * chosen.shape().active;
    let by_layer = (0..layers).map(|layer| {
        let found = (0..chosen.tokens()).map(|token| {
            let guess = &predicted.ranked(token, layer)[..k];
            chosen
                .active(token, layer + 1)
                .iter()
                .filter(|&id| guess.contains(id))
                .count()
        });
        found.sum::<usize>() as f64 / per_layer as f64
    });
    Recall {
        by_layer: by_layer.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::TraceShape;

    #[test]
    fn counts_what_the_first_k_name() {
        let shape = TraceShape {
            layers: 3,
            ranked: 2,
            active: 2,
            experts: 9,
        };
        // Two tokens, three layers.
        let chosen = Ranking::from_bytes(vec![0, 1, 2, 3, 4, 5, 0, 1, 6, 7, 8, 0], shape).unwrap();
        let shape = TraceShape {
            layers: 2,
            ranked: 3,
            active: 1,
            experts: 9,
        };
        let predicted =
            Ranking::from_bytes(vec![2, 8, 3, 0, 1, 2, 7, 6, 0, 0, 1, 8], shape).unwrap();
        assert_eq!(recall_at(&chosen, &predicted, 1).by_layer, [0.5, 0.25]);
        assert_eq!(recall_at(&chosen, &predicted, 3).by_layer, [1.0, 0.5]);
        assert_eq!(recall_at(&chosen, &predicted, 3).mean(), 0.75);
    }
}
