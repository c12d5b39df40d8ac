//! Where a text is cut before byte-level BPE, by the names that `tokenizer.ggml.pre` gives.
//!
//! Each kind is a list of patterns, applied one after another: a match becomes a piece, and so does what lies between
//! matches; later patterns cut the pieces of earlier ones. Merges never cross a cut. Where llama.cpp writes a model's
//! pattern in a simpler form, that form stands here: its ids are what the model's other users see.

use serde_json::{Value, json};

/// One kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PreTokenizer {
    splits: &'static [&'static str],
    /// A piece that is a token as a whole is that token, whether merges lead to it or not.
    pub ignore_merges: bool,
    /// Whether a beginning-of-sequence token is added where the metadata does not say.
    pub adds_bos: bool,
}

/// The kind of models whose metadata names none.
const DEFAULT: &str = "default";

/// Every name of every kind.
pub(super) fn names() -> Vec<&'static str> {
    KINDS
        .iter()
        .flat_map(|(names, _)| names.iter().copied())
        .collect()
}

/// By its name in the metadata.
pub(super) fn by_name(name: Option<&str>) -> Option<PreTokenizer> {
    let name = name.filter(|name| !name.is_empty()).unwrap_or(DEFAULT);
    let found = KINDS.iter().find(|(names, _)| names.contains(&name));
    found.map(|(_, kind)| *kind)
}

impl PreTokenizer {
    /// As steps of a `pre_tokenizer` of `tokenizer.json`: the cuts, then bytes spelled as GPT-2 does.
    pub fn steps(&self) -> Vec<Value> {
        let split = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let mut steps: Vec<Value> = self.splits.iter().map(split).collect();
        steps.push(json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false
        }));
        steps
    }
}

const fn kind(splits: &'static [&'static str]) -> PreTokenizer {
    PreTokenizer {
        splits,
        ignore_merges: false,
        adds_bos: false,
    }
}

/// With whole pieces looked up first.
const fn whole_first(splits: &'static [&'static str], adds_bos: bool) -> PreTokenizer {
    PreTokenizer {
        splits,
        ignore_merges: true,
        adds_bos,
    }
}

/// English contractions, whatever their case, among them `'S` and `'rE`.
macro_rules! contraction {
    () => {
        r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
    };
}

/// What most patterns end with: punctuation with its line ends, line ends, and other white space, of which the last
/// character goes to the word behind it.
macro_rules! rest {
    () => {
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    };
}

/// Words in which case matters: capitals, then small letters. Letters beyond ASCII count as both.
macro_rules! cased_words {
    ($suffix:expr) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+",
            $suffix,
            r"|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*",
            $suffix
        )
    };
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = concat!(
    contraction!(),
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    rest!()
);
const QWEN2: &str = concat!(contraction!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}", rest!());
const QWEN35: &str = concat!(
    contraction!(),
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const MINICPM5: &str = concat!(contraction!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+", rest!());
const UFAKZEKA: &str = concat!(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}", rest!());
const TEKKEN: &str = concat!(
    cased_words!(""),
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const GPT4O: &str = concat!(
    cased_words!(concat!("(?:", contraction!(), ")?")),
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const BAILING: &str = concat!(
    contraction!(),
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
);
const SEED_CODER: &str = concat!(
    contraction!(),
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const EXAONE_MOE: &str = concat!(
    contraction!(),
    r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
);
const DEEPSEEK_V3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// Letters with case of the scripts that DeepSeek names: Latin, Greek, Cyrillic, Armenian, Georgian, Cherokee, Coptic,
/// Deseret, Osage, Old Hungarian, Warang Citi and Adlam.
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[A-Za-z\xB5\xC0-\xD6\xD8-\xF6\xF8-\u{1BA}\u{1BC}-\u{1BF}\u{1C4}-\u{293}\u{295}-\u{2AF}",
    r"\u{370}-\u{373}\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}\u{388}-\u{38A}\u{38C}\u{38E}-\u{3A1}",
    r"\u{3A3}-\u{3F5}\u{3F7}-\u{481}\u{48A}-\u{52F}\u{531}-\u{556}\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}",
    r"\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}\u{1D6B}-\u{1D77}",
    r"\u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}",
    r"\u{1F50}-\u{1F57}\u{1F59}\u{1F5B}\u{1F5D}\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}",
    r"\u{1FBE}\u{1FC2}-\u{1FC4}\u{1FC6}-\u{1FCC}\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}",
    r"\u{1FF2}-\u{1FF4}\u{1FF6}-\u{1FFC}\u{2102}\u{2107}\u{210A}-\u{2113}\u{2115}\u{2119}-\u{211D}",
    r"\u{2124}\u{2126}\u{2128}\u{212A}-\u{212D}\u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}",
    r"\u{2145}-\u{2149}\u{214E}\u{2183}\u{2184}\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}\u{2CEB}-\u{2CEE}",
    r"\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}\u{A680}-\u{A69B}\u{A722}-\u{A76F}\u{A771}-\u{A787}",
    r"\u{A78B}-\u{A78E}\u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}\u{FF21}-\u{FF3A}",
    r"\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}\u{104B0}-\u{104D3}\u{104D8}-\u{104FB}\u{10C80}-\u{10CB2}",
    r"\u{10CC0}-\u{10CF2}\u{118A0}-\u{118DF}\u{1E900}-\u{1E943}]+"
);
/// Without the ideographic space, which llama.cpp takes for white space before it looks for punctuation.
const DEEPSEEK_PUNCTUATION: &str = concat!(
    r"\s?[!-/:-~\u{FF01}-\u{FF0F}\u{FF1A}-\u{FF5E}",
    r"\u{2018}-\u{201F}\u{3001}-\u{3002}]+"
);
/// Han, Hangul, and what lies between the Samaritan block and them but white space.
const DEEPSEEK_EAST_ASIAN: &str = r"[\u{4E00}-\u{9FA5}\u{800}-\u{4E00}\u{AC00}-\u{D7FF}&&[^\s]]+";
/// Han, Hiragana, Katakana.
const HAN_AND_KANA: &str = r"[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+";
/// Words by what they are not: white space and the punctuation of many scripts.
const UNPUNCTUATED: &str = r" ?[^(\s|.,!?\u{2026}\u{3002}\u{FF0C}\u{3001}\u{964}\u{6D4}\u{60C})]+";

/// Names of one kind, and the kind.
type Named = (&'static [&'static str], PreTokenizer);

const KINDS: &[Named] = &[
    (
        &[DEFAULT],
        kind(&[r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
    ),
    (
        &[
            "llama3",
            "llama-v3",
            "llama-bpe",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
        ],
        whole_first(&[LLAMA3], true),
    ),
    (&["dbrx", "smaug-bpe", "chatglm-bpe"], kind(&[LLAMA3])),
    (&["glm4", "glm5"], whole_first(&[LLAMA3], false)),
    (
        &[
            "gpt-2",
            "phi-2",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        kind(&[GPT2]),
    ),
    (
        &[
            "starcoder",
            "refact",
            "command-r",
            "smollm",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        kind(&[r"\p{N}", GPT2]),
    ),
    (
        &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        kind(&[QWEN2]),
    ),
    (&["qwen35"], kind(&[QWEN35])),
    (&["ufakzeka"], kind(&[UFAKZEKA])),
    (
        &["minicpm5"],
        whole_first(&[r"\p{N}{1,3}", MINICPM5], false),
    ),
    (
        &["deepseek-llm"],
        kind(&[
            r"[\r\n]",
            DEEPSEEK_LETTERS,
            DEEPSEEK_PUNCTUATION,
            r"\s+$",
            DEEPSEEK_EAST_ASIAN,
            r"\p{N}+",
        ]),
    ),
    (
        &["deepseek-coder"],
        kind(&[
            r"[\r\n]",
            r"\s?\p{L}+",
            r"\s?\p{P}+",
            DEEPSEEK_EAST_ASIAN,
            r"\p{N}",
        ]),
    ),
    (
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        kind(&[r"\p{N}{1,3}", HAN_AND_KANA, DEEPSEEK_V3]),
    ),
    (
        &["falcon"],
        kind(&[r"[\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"]),
    ),
    (&["tekken"], whole_first(&[TEKKEN], true)),
    (
        &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        kind(&[GPT4O]),
    ),
    (
        &["bailingmoe", "bailingmoe2", "llada-moe"],
        kind(&[BAILING]),
    ),
    (&["seed-coder"], kind(&[SEED_CODER])),
    (&["exaone-moe"], kind(&[EXAONE_MOE])),
    (
        &["poro-chat", "bloom", "gpt3-finnish"],
        kind(&[UNPUNCTUATED]),
    ),
    (&["viking"], kind(&[UNPUNCTUATED, r"\p{N}"])),
];
