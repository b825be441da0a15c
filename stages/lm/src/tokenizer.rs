//! A model folder's tokenizer: text to token ids and back, special tokens by their role.
//!
//! User text never becomes a control token: it is encoded by a copy of the tokenizer that knows no special tokens. Control
//! tokens are put between the pieces by id. Fill-in-the-middle tokens are found by name in the four families below; the
//! tokens around chat turns are what the folder's own chat template writes there.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use ablate_stages::columns::{Segment, Special};
use serde_json::Value;

use crate::chat::{ChatTemplate, Message, token_text};
use crate::config::token_ids;
use crate::error::{ModelError, Result, read_json};

/// The names of a family's fill-in-the-middle tokens, and of those that must end a generation.
struct FimFamily {
    prefix: &'static str,
    suffix: &'static str,
    middle: &'static str,
    /// Ends a document or a middle.
    end: &'static str,
    /// Whether a prompt opens with the token that begins a text.
    bos: bool,
    /// Tokens that never belong into a middle.
    stops: &'static [&'static str],
}

/// Qwen2.5-Coder, `StarCoder2`, DeepSeek-Coder (the *hole* stands where the suffix starts), `CodeLlama`.
const FIM_FAMILIES: [FimFamily; 4] = [
    FimFamily {
        prefix: "<|fim_prefix|>",
        suffix: "<|fim_suffix|>",
        middle: "<|fim_middle|>",
        end: "<|endoftext|>",
        bos: false,
        stops: &["<|im_end|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"],
    },
    FimFamily {
        prefix: "<fim_prefix>",
        suffix: "<fim_suffix>",
        middle: "<fim_middle>",
        end: "<|endoftext|>",
        bos: false,
        stops: &["<fim_pad>", "<repo_name>", "<file_sep>"],
    },
    FimFamily {
        prefix: "<｜fim▁begin｜>",
        suffix: "<｜fim▁hole｜>",
        middle: "<｜fim▁end｜>",
        end: "<｜end▁of▁sentence｜>",
        bos: true,
        stops: &["<|EOT|>"],
    },
    FimFamily { prefix: "▁<PRE>", suffix: "▁<SUF>", middle: "▁<MID>", end: "▁<EOT>", bos: true, stops: &[] },
];

/// Text as token ids.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Encoded {
    /// The token ids.
    pub ids: Vec<i64>,
    /// The bytes of the text that each token covers; tokens that share a character overlap.
    pub bytes: Vec<Range<usize>>,
}

/// Segments as token ids, with the weight of the loss on each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WeightedTokens {
    /// The token ids.
    pub ids: Vec<i64>,
    /// The weight of each; zero for context.
    pub weights: Vec<f32>,
}

/// A tokenizer and the special tokens of its model.
#[derive(Debug)]
pub struct Tokenizer {
    folder: PathBuf,
    /// The tokenizer without added tokens.
    plain: tokenizers::Tokenizer,
    /// Added tokens by id: their text, and whether it is shown.
    added: BTreeMap<i64, (String, bool)>,
    /// Whether the tokenizer puts a space before a text, which is left out of `plain`.
    leading_space: bool,
    fim: Option<Fim>,
    chat: Result<ChatMarks, String>,
    end: Option<i64>,
    stop_ids: BTreeSet<i64>,
}

/// Ids of the fill-in-the-middle tokens; the prefix with the token that begins a text, where the family wants it.
#[derive(Debug)]
struct Fim {
    prefix: Vec<i64>,
    suffix: Vec<i64>,
    middle: Vec<i64>,
}

/// Token ids that the chat template puts around the texts of a conversation.
#[derive(Debug)]
struct ChatMarks {
    system_start: Result<Vec<i64>, String>,
    user_start_after_system: Vec<i64>,
    user_start_first: Vec<i64>,
    assistant_start: Vec<i64>,
    turn_end: Vec<i64>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, `tokenizer_config.json`, `generation_config.json`, `config.json` and the chat template.
    ///
    /// # Errors
    /// `Tokenizer`, `Io` or `Json` if a file cannot be read; what a tokenizer lacks is told when it is asked for.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        if !path.exists() {
            let hint =
                "only fast tokenizers are read; `AutoTokenizer.from_pretrained(..).save_pretrained(..)` writes one";
            return Err(ModelError::tokenizer(folder, format!("tokenizer.json is missing: {hint}")));
        }
        let json = read_json(&path)?;
        let optional = |name: &str| -> Result<Value> {
            let path = folder.join(name);
            if path.exists() { read_json(&path) } else { Ok(Value::Null) }
        };
        let settings = optional("tokenizer_config.json")?;
        let parse = |json: &Value| -> Result<tokenizers::Tokenizer> {
            tokenizers::Tokenizer::from_bytes(json.to_string())
                .map_err(|error| ModelError::tokenizer(&path, error.to_string()))
        };
        let full = parse(&json)?;
        let (plain_json, leading_space) = without_added_tokens(json.clone());
        let plain = parse(&plain_json)?;
        let mut added = BTreeMap::new();
        for token in json.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
            if let (Some(id), Some(text)) =
                (token.get("id").and_then(Value::as_i64), token.get("content").and_then(Value::as_str))
            {
                let shown = !token.get("special").and_then(Value::as_bool).unwrap_or(false) && !is_control(text);
                added.insert(id, (text.to_string(), shown));
            }
        }
        let id = |text: &str| full.token_to_id(text).map(i64::from);
        let named = |key: &str| settings.get(key).and_then(token_text).and_then(|text| id(&text));
        let family = FIM_FAMILIES.iter().find(|f| [f.prefix, f.suffix, f.middle].iter().all(|name| id(name).is_some()));
        let mut stop_ids: BTreeSet<i64> = BTreeSet::new();
        for name in ["generation_config.json", "config.json"] {
            if let Some(map) = optional(name)?.as_object() {
                stop_ids.extend(
                    token_ids(map, "eos_token_id")
                        .map_err(|problem| ModelError::config(&folder.join(name), problem))?,
                );
            }
        }
        stop_ids.extend(named("eos_token"));
        let end = family
            .and_then(|family| id(family.end))
            .or_else(|| named("eos_token"))
            .or_else(|| stop_ids.first().copied());
        stop_ids.extend(end);
        let fim = family.map(|family| {
            let all = family.stops.iter().chain([&family.prefix, &family.suffix, &family.middle]);
            stop_ids.extend(all.filter_map(|name| id(name)));
            let bos = if family.bos { named("bos_token") } else { None };
            let one = |name: &str| id(name).into_iter().collect::<Vec<_>>();
            Fim {
                prefix: bos.into_iter().chain(id(family.prefix)).collect(),
                suffix: one(family.suffix),
                middle: one(family.middle),
            }
        });
        let chat = match ChatTemplate::load(folder)? {
            None => Err("there is no chat template in tokenizer_config.json or chat_template.jinja".to_string()),
            Some(template) => chat_marks(&template, &full, &added).map_err(|error| error.to_string()),
        };
        Ok(Self { folder: folder.to_path_buf(), plain, added, leading_space, fim, chat, end, stop_ids })
    }

    /// Encodes text; nothing in it becomes a control token.
    ///
    /// # Errors
    /// `Tokenizer` if the tokenizer fails on the text.
    pub fn encode(&self, text: &str) -> Result<Encoded> {
        let encoding =
            self.plain.encode(text, false).map_err(|error| ModelError::tokenizer(&self.folder, error.to_string()))?;
        Ok(Encoded {
            ids: encoding.get_ids().iter().map(|&id| i64::from(id)).collect(),
            bytes: encoding.get_offsets().iter().map(|&(start, end)| start..end).collect(),
        })
    }

    /// Decodes token ids; control tokens leave no trace. Bytes that are not valid UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// `Tokenizer` if the tokenizer fails on the ids.
    pub fn decode(&self, ids: &[i64]) -> Result<String> {
        let mut text = String::new();
        let mut run: Vec<u32> = Vec::with_capacity(ids.len());
        let flush = |run: &mut Vec<u32>, text: &mut String| -> Result<()> {
            if !run.is_empty() {
                let piece = self
                    .plain
                    .decode(run, false)
                    .map_err(|error| ModelError::tokenizer(&self.folder, error.to_string()))?;
                text.push_str(&piece);
                run.clear();
            }
            Ok(())
        };
        for &id in ids {
            match self.added.get(&id) {
                None => run.push(id as u32),
                Some((content, shown)) => {
                    flush(&mut run, &mut text)?;
                    if *shown {
                        text.push_str(content);
                    }
                }
            }
        }
        flush(&mut run, &mut text)?;
        Ok(text)
    }

    /// Returns the ids of the tokens that play a role; `after` is the special that was last seen in the same prompt, which
    /// decides whether a user's turn opens the conversation.
    ///
    /// # Errors
    /// `Tokenizer` says what the tokenizer or the chat template lacks, and what to do.
    pub fn special(&self, special: Special, after: Option<Special>) -> Result<&[i64]> {
        let fim = || {
            self.fim.as_ref().ok_or_else(|| {
                let known: Vec<&str> = FIM_FAMILIES.iter().map(|family| family.prefix).collect();
                let problem = format!(
                    "the tokenizer has no fill-in-the-middle tokens (none of {} with its suffix and middle); use a base model that was trained to fill in, or the chat format",
                    known.join(", ")
                );
                ModelError::tokenizer(&self.folder, problem)
            })
        };
        let chat = || self.chat.as_ref().map_err(|problem| ModelError::tokenizer(&self.folder, problem.clone()));
        Ok(match special {
            Special::FimPrefix => &fim()?.prefix,
            Special::FimSuffix => &fim()?.suffix,
            Special::FimMiddle => &fim()?.middle,
            Special::End => self.end.as_slice(),
            Special::SystemStart => {
                chat()?.system_start.as_ref().map_err(|problem| ModelError::tokenizer(&self.folder, problem.clone()))?
            }
            Special::UserStart if after == Some(Special::SystemStart) => &chat()?.user_start_after_system,
            Special::UserStart => &chat()?.user_start_first,
            Special::AssistantStart => &chat()?.assistant_start,
            Special::TurnEnd => &chat()?.turn_end,
        })
    }

    /// Encodes segments, each apart from its neighbours, one behind the other, and weighs every token: a token of text takes
    /// the largest weight of the spans that its bytes overlap, a special token that of its only span.
    ///
    /// # Errors
    /// As [`encode`](Self::encode) and [`special`](Self::special).
    pub fn encode_segments(&self, segments: &[Segment]) -> Result<WeightedTokens> {
        self.encode_segments_after(segments, None)
    }

    /// As [`encode_segments`](Self::encode_segments), for segments that continue a prompt whose last special token was `after`.
    ///
    /// # Errors
    /// As there.
    pub fn encode_segments_after(&self, segments: &[Segment], mut after: Option<Special>) -> Result<WeightedTokens> {
        let mut tokens = WeightedTokens::default();
        for segment in segments {
            if let Some(special) = segment.special {
                let ids = self.special(special, after)?;
                let weight = segment.spans.iter().map(|span| span.weight).fold(0.0, f32::max);
                tokens.ids.extend_from_slice(ids);
                tokens.weights.extend(std::iter::repeat_n(weight, ids.len()));
                after = Some(special);
            }
            if let Some(text) = &segment.text {
                // SentencePiece opens a text with a space; a suffix or a middle is not the opening of a text.
                let shift = usize::from(self.leading_space && after == Some(Special::FimPrefix));
                let encoded = if shift == 1 { self.encode(&format!(" {text}"))? } else { self.encode(text)? };
                for (id, bytes) in encoded.ids.iter().zip(&encoded.bytes) {
                    let (start, end) = (bytes.start.saturating_sub(shift), bytes.end.saturating_sub(shift));
                    let overlapping =
                        segment.spans.iter().filter(|span| (span.start as usize) < end && start < span.end as usize);
                    tokens.ids.push(*id);
                    tokens.weights.push(overlapping.map(|span| span.weight).fold(0.0, f32::max));
                }
            }
        }
        Ok(tokens)
    }

    /// Returns the last special token in a prompt, for [`encode_segments_after`](Self::encode_segments_after).
    pub fn last_special(segments: &[Segment]) -> Option<Special> {
        segments.iter().rev().find_map(|segment| segment.special)
    }

    /// Returns the tokens that end a generation: those of `generation_config.json`, `config.json` and the tokenizer, the end
    /// of a middle, and control tokens that never belong into a text.
    pub fn stop_ids(&self) -> &BTreeSet<i64> {
        &self.stop_ids
    }
}

/// Whether an added token is a control token although it is not marked as special (Qwen's `<|fim_prefix|>` is not).
fn is_control(text: &str) -> bool {
    text.starts_with('<') && text.ends_with('>') && text.len() > 2
}

/// Returns the tokenizer without control tokens, without a post-processor (which may trim the bytes of a token), and without
/// the space that SentencePiece models put before a text; and whether there was one.
fn without_added_tokens(mut json: Value) -> (Value, bool) {
    if let Some(list) = json.get_mut("added_tokens").and_then(Value::as_array_mut) {
        list.retain(|token| {
            let special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
            !special && !token.get("content").and_then(Value::as_str).is_some_and(is_control)
        });
    }
    for key in ["post_processor", "truncation", "padding"] {
        json[key] = Value::Null;
    }
    let mut leading_space = remove_step(&mut json, "normalizer", "normalizers", "Prepend");
    remove_step(&mut json, "decoder", "decoders", "Strip");
    for place in ["pre_tokenizer", "decoder"] {
        if let Some(step) = json.get_mut(place).filter(|step| step["type"] == "Metaspace") {
            leading_space |= step.get("prepend_scheme").and_then(Value::as_str) != Some("never");
            step["prepend_scheme"] = "never".into();
            if let Some(map) = step.as_object_mut() {
                map.remove("add_prefix_space");
            }
        }
    }
    (json, leading_space)
}

/// Removes a step of the given type from a sequence, or the whole if it is that step; returns whether it was there.
fn remove_step(json: &mut Value, place: &str, list: &str, kind: &str) -> bool {
    let Some(step) = json.get_mut(place) else { return false };
    if step["type"] == kind {
        *step = Value::Null;
        return true;
    }
    let Some(steps) = step.get_mut(list).and_then(Value::as_array_mut) else { return false };
    let before = steps.len();
    steps.retain(|step| step["type"] != kind);
    steps.len() < before
}

/// Finds what the chat template writes around the texts of a conversation, by rendering one of unmistakable texts.
fn chat_marks(
    template: &ChatTemplate,
    full: &tokenizers::Tokenizer,
    added: &BTreeMap<i64, (String, bool)>,
) -> Result<ChatMarks> {
    const SYSTEM: &str = "\u{e000}system\u{e000}";
    const USER: &str = "\u{e000}user\u{e000}";
    const ASSISTANT: &str = "\u{e000}assistant\u{e000}";
    let missing =
        |what: &str| ModelError::Template { problem: format!("it does not write the {what}'s text as it is given") };
    let encode = |text: &str| -> Result<Vec<i64>> {
        let encoding = full.encode(text, false).map_err(|error| ModelError::Template { problem: error.to_string() })?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    };
    let (system, user) = (Message::new("system", SYSTEM), Message::new("user", USER));
    let first = template.render(std::slice::from_ref(&user), true, None)?;
    let (user_start_first, assistant_start) = first.split_once(USER).ok_or_else(|| missing("user"))?;
    let with_system = template.render(&[system, user.clone()], true, None).and_then(|text| {
        let (before, rest) = text.split_once(SYSTEM).ok_or_else(|| missing("system"))?;
        let (between, _) = rest.split_once(USER).ok_or_else(|| missing("user"))?;
        Ok((encode(before)?, encode(between)?))
    });
    let (system_start, user_start_after_system) = match with_system {
        Ok((before, between)) => (Ok(before), between),
        Err(error) => {
            (Err(format!("the chat template takes no system text ({error}); set `system: null`")), Vec::new())
        }
    };
    let answered = template.render(&[user, Message::new("assistant", ASSISTANT)], false, None)?;
    let (_, closing) = answered.split_once(ASSISTANT).ok_or_else(|| missing("assistant"))?;
    let mut turn_end = encode(closing)?;
    // Behind the control token that ends a turn, a template may break the line: nobody needs to learn that.
    if let Some(at) = turn_end.iter().position(|id| added.contains_key(id)) {
        turn_end.truncate(at + 1);
    }
    Ok(ChatMarks {
        system_start,
        user_start_after_system,
        user_start_first: encode(user_start_first)?,
        assistant_start: encode(assistant_start)?,
        turn_end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use ablate_stages::columns::Span;
    use tch::Kind;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        testing::write_model(folder.path(), &testing::tiny_config(), 1, Kind::Float).unwrap();
        folder
    }

    fn rewrite(folder: &Path, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = read_json(&folder.join(name)).unwrap();
        change(&mut value);
        std::fs::write(folder.join(name), value.to_string()).unwrap();
    }

    #[test]
    fn text_comes_back_and_never_becomes_a_control_token() {
        let folder = folder();
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        let text = "def f(x):\n    return '<|im_end|>' + \"é<|fim_middle|>\"";
        let encoded = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&encoded.ids).unwrap(), text);
        assert!(encoded.ids.iter().all(|id| !tokenizer.stop_ids().contains(id)), "{encoded:?}");
        assert_eq!(&text[encoded.bytes[0].clone()], "def");
        assert_eq!(tokenizer.decode(&[1, encoded.ids[0], 3]).unwrap(), "def");
    }

    #[test]
    fn segments_are_weighed_by_the_bytes_of_their_tokens() {
        let folder = folder();
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        let mut text = Segment::text("def ab");
        text.spans = vec![Span { start: 1, end: 2, weight: 0.5 }, Span { start: 2, end: 5, weight: 2.0 }];
        let segments = [Segment::special(Special::FimPrefix), text, Segment::special_target(Special::End)];
        let tokens = tokenizer.encode_segments(&segments).unwrap();
        // fim_prefix, "def" (overlaps both spans), " ", "a", "b" (behind the spans), end
        assert_eq!(tokens.weights, vec![0.0, 2.0, 2.0, 2.0, 0.0, 1.0]);
        assert_eq!((tokens.ids[0], *tokens.ids.last().unwrap()), (4, 1));
    }

    #[test]
    fn chat_marks_make_the_same_ids_as_the_rendered_conversation() {
        let folder = folder();
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        let full = tokenizers::Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap();
        let template = ChatTemplate::load(folder.path()).unwrap().unwrap();
        let (mark, text) = (Segment::special, |text: &str| Segment::text(text));
        let with_system = vec![
            mark(Special::SystemStart),
            text("Be brief."),
            mark(Special::UserStart),
            text("Add 1."),
            mark(Special::AssistantStart),
        ];
        let without = vec![mark(Special::UserStart), text("Add 1."), mark(Special::AssistantStart)];
        let (system, user) = (Message::new("system", "Be brief."), Message::new("user", "Add 1."));
        for (segments, messages) in [(with_system, vec![system, user.clone()]), (without, vec![user])] {
            let rendered = template.render(&messages, true, None).unwrap();
            let expected: Vec<i64> =
                full.encode(rendered, false).unwrap().get_ids().iter().map(|&id| i64::from(id)).collect();
            assert_eq!(tokenizer.encode_segments(&segments).unwrap().ids, expected);
        }
        assert_eq!(tokenizer.special(Special::TurnEnd, None).unwrap(), [3]);
    }

    #[test]
    fn ends_are_gathered_from_all_places_that_name_them() {
        let folder = folder();
        rewrite(folder.path(), "generation_config.json", |value| value["eos_token_id"] = 9.into());
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        // 9 from generation_config, 3 from config, 1 ends a middle, 4 to 6 open parts of a prompt
        assert_eq!(tokenizer.stop_ids().iter().copied().collect::<Vec<_>>(), vec![1, 3, 4, 5, 6, 9]);
    }

    #[test]
    fn a_tokenizer_that_lacks_something_says_what() {
        let folder = folder();
        rewrite(folder.path(), "tokenizer.json", |value| {
            let text = value.to_string().replace("<|fim_middle|>", "<|other|>");
            *value = serde_json::from_str(&text).unwrap();
        });
        rewrite(folder.path(), "tokenizer_config.json", |value| value["chat_template"] = Value::Null);
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        let message = tokenizer.special(Special::FimMiddle, None).unwrap_err().to_string();
        assert!(message.contains("the tokenizer has no fill-in-the-middle tokens"), "{message}");
        let message = tokenizer.special(Special::UserStart, None).unwrap_err().to_string();
        assert!(message.contains("there is no chat template"), "{message}");
        std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
        assert!(Tokenizer::load(folder.path()).unwrap_err().to_string().contains("tokenizer.json is missing"));
    }
}
