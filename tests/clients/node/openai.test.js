// What users of openai-node do, through the SDK alone. ODMOE_URL is the server's base URL without /v1.
import assert from "node:assert/strict";
import test from "node:test";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.ODMOE_URL}/v1`, apiKey: "none", maxRetries: 0 });
const QUESTION = [{ role: "user", content: "What color is the sky?" }];
const STORY = [{ role: "user", content: "Tell me a story about a cat and a bird." }];
const TOOL = {
  type: "function",
  function: { name: "weather", parameters: { type: "object", properties: { city: { enum: ["Rome", "Oslo"] } }, required: ["city"], additionalProperties: false } },
};
const model = (await client.models.list()).data[0].id;

function ask(messages = QUESTION, fields = {}) {
  return client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 32, ...fields });
}

async function all(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

test("a chat", async () => {
  const answer = await ask();
  assert.match(answer.choices[0].message.content, /sky/);
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  assert.ok(answer._request_id);
});

test("a streamed chat equals a whole one", async () => {
  const whole = (await ask(STORY)).choices[0];
  const chunks = await all(await ask(STORY, { stream: true, stream_options: { include_usage: true } }));
  assert.ok(chunks.length > 5, "a stream comes in pieces");
  const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
  assert.equal(text, whole.message.content);
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-2).choices[0].finish_reason, whole.finish_reason);
  assert.ok(chunks.at(-1).usage.completion_tokens > 0);
});

test("the stream helper", async () => {
  const stream = client.chat.completions.stream({ model, messages: QUESTION, temperature: 0, max_tokens: 32 });
  const pieces = [];
  stream.on("content", (delta) => pieces.push(delta));
  const final = await stream.finalChatCompletion();
  assert.equal(pieces.join(""), final.choices[0].message.content);
  assert.equal(final.choices[0].message.content, (await ask()).choices[0].message.content);
});

test("several answers, stops, logprobs and seeds", async () => {
  const answers = await ask(STORY, { n: 2, temperature: 1, seed: 7, logprobs: true, top_logprobs: 2, stop: ["\n"] });
  const again = await ask(STORY, { n: 2, temperature: 1, seed: 7, stop: "\n" });
  assert.equal(answers.choices.length, 2);
  answers.choices.forEach((choice, index) => {
    assert.equal(choice.message.content, again.choices[index].message.content);
    assert.ok(!choice.message.content.includes("\n"));
    assert.equal(choice.logprobs.content[0].top_logprobs.length, 2);
  });
});

test("an answer that follows a schema", async () => {
  const schema = TOOL.function.parameters;
  const response_format = { type: "json_schema", json_schema: { name: "place", strict: true, schema } };
  const answer = await ask(QUESTION, { response_format, max_tokens: 64 });
  assert.ok(["Rome", "Oslo"].includes(JSON.parse(answer.choices[0].message.content).city));
});

test("a forced call, whole and streamed", async () => {
  const fields = { tools: [TOOL], tool_choice: "required", max_tokens: 128 };
  const whole = (await ask(QUESTION, fields)).choices[0];
  assert.equal(whole.finish_reason, "tool_calls");
  const [call] = whole.message.tool_calls;
  assert.equal(call.function.name, "weather");
  assert.ok(["Rome", "Oslo"].includes(JSON.parse(call.function.arguments).city));
  const final = await client.chat.completions
    .stream({ model, messages: QUESTION, temperature: 0, ...fields })
    .finalChatCompletion();
  assert.deepEqual(final.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);
});

test("completions of texts and of tokens", async () => {
  const answer = await client.completions.create({ model, prompt: ["Once", "There"], max_tokens: 4, temperature: 0 });
  assert.equal(answer.choices.length, 2);
  const streamed = await all(await client.completions.create({ model, prompt: "Once", max_tokens: 4, temperature: 0, stream: true }));
  assert.equal(streamed.map((chunk) => chunk.choices[0].text).join(""), answer.choices[0].text);
});

test("responses, streamed and gone on from", async () => {
  const first = await client.responses.create({ model, input: "What color is the sky?", temperature: 0, max_output_tokens: 32 });
  assert.match(first.output_text, /sky/);
  const events = await all(
    await client.responses.create({ model, input: "What color is the sky?", temperature: 0, max_output_tokens: 32, stream: true }),
  );
  assert.equal(events[0].type, "response.created");
  assert.equal(events.at(-1).type, "response.completed");
  assert.equal(events.at(-1).response.output[0].content[0].text, first.output_text);
  const next = await client.responses.create({ model, input: "And the grass?", previous_response_id: first.id, max_output_tokens: 8 });
  assert.equal(next.previous_response_id, first.id);
  await client.responses.delete(first.id);
  await assert.rejects(client.responses.retrieve(first.id), OpenAI.NotFoundError);
});

test("embeddings", async () => {
  // The SDK asks for base64 and decodes it.
  const { data } = await client.embeddings.create({ model, input: ["a cat", "a dog"] });
  const plain = await client.embeddings.create({ model, input: "a cat", encoding_format: "float" });
  assert.equal(data.length, 2);
  assert.equal(data[0].embedding.length, plain.data[0].embedding.length);
  data[0].embedding.forEach((value, index) => assert.equal(Math.fround(value), Math.fround(plain.data[0].embedding[index])));
});

test("errors are the SDK's", async () => {
  await assert.rejects(ask(QUESTION, { temperature: 99 }), (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature");
  await assert.rejects(ask(QUESTION, { model: "another" }), (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found");
  const long = [{ role: "user", content: "word ".repeat(5000) }];
  await assert.rejects(ask(long), (error) => error.code === "context_length_exceeded");
});

test("a stream that is left", async () => {
  const stream = await ask(STORY, { stream: true, max_tokens: 512, temperature: 1 });
  for await (const chunk of stream) {
    assert.ok(chunk.id);
    break;
  }
  // The next request is served.
  assert.ok((await ask()).id);
});
