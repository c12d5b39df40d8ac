//! Random `qwen3moe` checkpoints of any shape, as Hugging Face folders. They answer nonsense, at any size.

use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// A model's shape. Four query heads, two key/value heads, two experts a token.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Layers, all sparse.
    pub layers: usize,
    /// Experts a layer.
    pub experts: usize,
    /// Width of an expert.
    pub expert_width: usize,
    /// Width of the residual stream, a multiple of four.
    pub hidden: usize,
    /// Rows of the embedding.
    pub vocabulary: usize,
}

/// Writes config.json, model.safetensors and a copy of the tokenizer.
pub fn write_checkpoint(folder: &Path, shape: Shape, tokenizer: &Path) {
    let head_width = shape.hidden / 4;
    let config = json!({
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
        "hidden_size": shape.hidden, "num_hidden_layers": shape.layers, "vocab_size": shape.vocabulary,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": head_width,
        "num_experts": shape.experts, "num_experts_per_tok": 2, "moe_intermediate_size": shape.expert_width,
        "intermediate_size": shape.hidden, "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": true,
        "attention_bias": false, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "rope_scaling": null, "max_position_embeddings": 2048, "tie_word_embeddings": false,
        "use_sliding_window": false, "torch_dtype": "bfloat16", "eos_token_id": 2,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a writable folder");
    std::fs::copy(tokenizer, folder.join("tokenizer.json")).expect("a tokenizer to copy");
    let file = File::create(folder.join("model.safetensors")).expect("a writable folder");
    write_safetensors(BufWriter::new(file), &tensors(shape, head_width)).expect("room on the disk");
}

type Tensor = (String, Vec<usize>);

fn tensors(shape: Shape, head_width: usize) -> Vec<Tensor> {
    let Shape {
        hidden,
        vocabulary,
        expert_width,
        ..
    } = shape;
    let mut all = vec![
        (
            "model.embed_tokens.weight".to_string(),
            vec![vocabulary, hidden],
        ),
        ("model.norm.weight".to_string(), vec![hidden]),
        ("lm_head.weight".to_string(), vec![vocabulary, hidden]),
    ];
    for layer in 0..shape.layers {
        let mut add = |name: &str, dims: Vec<usize>| {
            all.push((format!("model.layers.{layer}.{name}.weight"), dims))
        };
        add("input_layernorm", vec![hidden]);
        add("post_attention_layernorm", vec![hidden]);
        add("self_attn.q_proj", vec![4 * head_width, hidden]);
        add("self_attn.k_proj", vec![2 * head_width, hidden]);
        add("self_attn.v_proj", vec![2 * head_width, hidden]);
        add("self_attn.o_proj", vec![hidden, 4 * head_width]);
        add("self_attn.q_norm", vec![head_width]);
        add("self_attn.k_norm", vec![head_width]);
        add("mlp.gate", vec![shape.experts, hidden]);
        for expert in 0..shape.experts {
            add(
                &format!("mlp.experts.{expert}.gate_proj"),
                vec![expert_width, hidden],
            );
            add(
                &format!("mlp.experts.{expert}.up_proj"),
                vec![expert_width, hidden],
            );
            add(
                &format!("mlp.experts.{expert}.down_proj"),
                vec![hidden, expert_width],
            );
        }
    }
    all
}

fn write_safetensors(mut file: impl Write, tensors: &[Tensor]) -> std::io::Result<()> {
    let mut header = Map::new();
    let mut end = 0;
    for (name, dims) in tensors {
        let begin = end;
        end += 2 * dims.iter().product::<usize>();
        let entry = json!({"dtype": "BF16", "shape": dims, "data_offsets": [begin, end]});
        header.insert(name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    // Uniform in (-1/16, 1/16), by the multiplicative generator of Park and Miller: any weights do.
    let mut state: u64 = 1;
    for (_, dims) in tensors {
        for _ in 0..dims.iter().product::<usize>() {
            state = state * 48271 % 0x7fff_ffff;
            let value = (state as f32 / 0x7fff_ffff as f32 - 0.5) / 8.0;
            file.write_all(&((value.to_bits() >> 16) as u16).to_le_bytes())?;
        }
    }
    file.flush()
}
