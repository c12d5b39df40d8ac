//! Prompts before their answers.

use super::*;

/// The choices of a stream, joined by index: texts, and each list of logprobs.
fn joined(body: &str) -> Vec<Value> {
    let mut choices: Vec<Value> = Vec::new();
    let data = body.lines().filter_map(|line| line.strip_prefix("data: {"));
    for chunk in data.map(|data| serde_json::from_str::<Value>(&format!("{{{data}")).unwrap()) {
        for choice in chunk["choices"].as_array().unwrap() {
            let index = choice["index"].as_u64().unwrap() as usize;
            if choices.len() <= index {
                choices.push(choice.clone());
                continue;
            }
            let whole = &mut choices[index];
            whole["text"] = json!(
                [whole["text"].as_str(), choice["text"].as_str()]
                    .map(Option::unwrap)
                    .concat()
            );
            whole["finish_reason"] = choice["finish_reason"].clone();
            for (name, list) in choice["logprobs"].as_object().into_iter().flatten() {
                let more = list.as_array().unwrap().clone();
                whole["logprobs"][name].as_array_mut().unwrap().extend(more);
            }
        }
    }
    choices
}

#[tokio::test]
async fn each_answer_begins_with_its_prompt() {
    let server = Server::saying("!").await;
    let body =
        |stream| completion(json!({"prompt": ["ab", "c"], "n": 2, "echo": true, "stream": stream}));
    let whole = server.post(COMPLETIONS, body(false)).await.json();
    let texts: Vec<&str> = whole["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["text"].as_str().unwrap())
        .collect();
    assert_eq!(texts, ["ab!", "ab!", "c!", "c!"]);
    assert_eq!(whole["choices"][0]["logprobs"], Value::Null);
    let streamed = server.post(COMPLETIONS, body(true)).await;
    assert_eq!(json!(joined(&streamed.body)), whole["choices"]);
    assert!(
        server
            .engine
            .requests()
            .iter()
            .all(|request| request.max_new_tokens == 16),
        "nothing is scored unasked"
    );
}

#[tokio::test]
async fn with_logprobs_the_prompt_is_scored_too() {
    let server = Server::saying("!").await;
    let body = |stream| {
        completion(
            json!({"prompt": [[195, 169, 97], [98]], "echo": true, "logprobs": 1, "stream": stream}),
        )
    };
    let whole = server.post(COMPLETIONS, body(false)).await.json();
    let first = &whole["choices"][0];
    assert_eq!(first["text"], "éa!");
    assert_eq!(
        first["logprobs"],
        json!({
            "tokens": ["bytes:\\xc3", "bytes:\\xa9", "a", "!"],
            "token_logprobs": [null, -0.5, -0.5, -0.5],
            "top_logprobs": [null, {"bytes:\\xa9": -0.5}, {"a": -0.5}, {"!": -0.5}],
            "text_offset": [0, 0, 1, 2],
        })
    );
    let second = &whole["choices"][1]["logprobs"];
    assert_eq!(second["token_logprobs"], json!([null, -0.5]));
    assert_eq!(second["text_offset"], json!([0, 1]));
    let streamed = server.post(COMPLETIONS, body(true)).await;
    assert_eq!(json!(joined(&streamed.body)), whole["choices"]);
}

#[tokio::test]
async fn a_prompt_can_be_scored_without_an_answer() {
    let server = Server::saying("!").await;
    let more = json!({"prompt": "ab", "echo": true, "max_tokens": 0, "logprobs": 0});
    let whole = server
        .post(COMPLETIONS, completion(more.clone()))
        .await
        .json();
    let choice = &whole["choices"][0];
    assert_eq!(
        (&choice["text"], &choice["finish_reason"]),
        (&json!("ab"), &json!("length"))
    );
    assert_eq!(choice["logprobs"]["token_logprobs"], json!([null, -0.5]));
    assert_eq!(
        whole["usage"],
        json!({"prompt_tokens": 2, "completion_tokens": 0, "total_tokens": 2, "prompt_tokens_details": {"cached_tokens": 0}})
    );
    let streams = with(
        more,
        json!({"stream": true, "stream_options": {"include_usage": true}}),
    );
    let streamed = server.post(COMPLETIONS, completion(streams)).await;
    assert_eq!(json!(joined(&streamed.body)), whole["choices"]);
    assert!(streamed.body.ends_with("data: [DONE]\n\n"));
    assert!(streamed.body.contains("\"completion_tokens\":0"));
    // Only the scoring reached the engine.
    assert_eq!(server.engine.requests().len(), 2);
    let refused = server
        .post(COMPLETIONS, completion(json!({"max_tokens": 0})))
        .await;
    assert_eq!(refused.error().2.as_deref(), Some("max_tokens"));
}

#[tokio::test]
async fn offsets_are_those_of_the_text_and_stops_do_not_look_into_the_prompt() {
    let server = Server::saying("b!").await;
    let more = json!({"prompt": "abab", "echo": true, "logprobs": 0, "stop": ["!"]});
    let reply = server.post(COMPLETIONS, completion(more)).await.json();
    assert_eq!(reply["choices"][0]["text"], "ababb");
    assert_eq!(
        reply["choices"][0]["logprobs"]["text_offset"],
        json!([0, 1, 2, 3, 4])
    );
    let more = json!({"prompt": "a!b", "echo": true, "stop": ["!"]});
    let reply = server.post(COMPLETIONS, completion(more)).await.json();
    assert_eq!(reply["choices"][0]["text"], "a!bb");
}
