//! Chat templates: a model folder's own Jinja template, rendered as `transformers` renders it.
//!
//! `transformers` sets up Jinja2 with `trim_blocks`, `lstrip_blocks`, loop controls, `raise_exception`, `strftime_now` and a
//! `tojson` that writes plain JSON; templates also call methods of Python's strings and dictionaries. All of that is here.
//! `strftime_now` exists only where a clock is given: without one, templates that ask for it fall back to a fixed date, and a
//! prompt does not change from one day to the next.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Serde, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, context};
use serde::{Deserialize, Serialize};

use crate::error::{ModelError, Result, read_json};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// Returns a turn.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A chat template with what it may ask for.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    /// `bos_token`, `eos_token` and so on, as `tokenizer_config.json` names them.
    tokens: Vec<(String, String)>,
}

impl ChatTemplate {
    /// Reads the template of a model folder: `chat_template.jinja`, else `chat_template` in `tokenizer_config.json`
    /// (of several named ones: `default`). None if the folder has none.
    ///
    /// # Errors
    /// `Io` and `Json` for files that cannot be read, `Template` for one that does not compile.
    pub fn load(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("tokenizer_config.json");
        let config = if path.exists() { read_json(&path)? } else { serde_json::Value::Null };
        let file = folder.join("chat_template.jinja");
        let source = if file.exists() {
            Some(std::fs::read_to_string(&file).map_err(ModelError::io(&file))?)
        } else {
            match config.get("chat_template") {
                Some(serde_json::Value::String(source)) => Some(source.clone()),
                Some(serde_json::Value::Array(named)) => named
                    .iter()
                    .find(|entry| entry.get("name").and_then(|name| name.as_str()) == Some("default"))
                    .and_then(|entry| entry.get("template")?.as_str().map(str::to_string)),
                _ => None,
            }
        };
        let tokens = ["bos_token", "eos_token", "pad_token", "unk_token"]
            .into_iter()
            .filter_map(|name| Some((name.to_string(), token_text(config.get(name)?)?)))
            .collect();
        source.map(|source| Self::new(source, tokens)).transpose()
    }

    /// Compiles a template, to find its mistakes before it is used.
    ///
    /// # Errors
    /// `Template` says what and where.
    pub fn new(source: String, tokens: Vec<(String, String)>) -> Result<Self> {
        environment(None).template_from_str(&source).map_err(|error| template_error(&error))?;
        Ok(Self { source, tokens })
    }

    /// Renders a conversation. `now` is the clock behind `strftime_now`, in seconds since 1970, local time zone.
    ///
    /// # Errors
    /// `Template` with the message of `raise_exception`, or what went wrong in the template.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool, now: Option<i64>) -> Result<String> {
        let environment = environment(now);
        let tokens: BTreeMap<String, String> = self.tokens.iter().cloned().collect();
        let tokens = Value::from(tokens);
        let messages = Value::from(Serde(messages));
        let context = context! { messages, add_generation_prompt, ..tokens };
        let template = environment.template_from_str(&self.source).map_err(|error| template_error(&error))?;
        template.render(context).map_err(|error| template_error(&error))
    }
}

/// Returns the text of a token in `tokenizer_config.json`: a string, or an object with its content.
pub(crate) fn token_text(value: &serde_json::Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_string)
}

fn template_error(error: &Error) -> ModelError {
    let place = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    ModelError::Template { problem: format!("{}{place}", error.detail().unwrap_or(&error.kind().to_string())) }
}

fn environment(now: Option<i64>) -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters do not clash"));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(python_method);
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    if let Some(now) = now {
        environment.add_function("strftime_now", move |format: &str| strftime(format, now));
    }
    environment
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let mut out = String::new();
    write_json(&mut out, value, indent, 0)?;
    Ok(out)
}

fn write_json(out: &mut String, value: &Value, indent: Option<usize>, depth: usize) -> Result<(), Error> {
    let new_line = |out: &mut String, depth: usize| {
        if let Some(width) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', width * depth));
        }
    };
    let comma = if indent.is_some() { "," } else { ", " };
    match value.kind() {
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                if index > 0 {
                    out.push_str(comma);
                }
                new_line(out, depth + 1);
                write_string(out, &key.to_string());
                out.push_str(": ");
                write_json(out, &value.get_item(&key)?, indent, depth + 1)?;
            }
            if value.len() != Some(0) {
                new_line(out, depth);
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            let mut any = false;
            for (index, item) in value.try_iter()?.enumerate() {
                any = true;
                if index > 0 {
                    out.push_str(comma);
                }
                new_line(out, depth + 1);
                write_json(out, &item, indent, depth + 1)?;
            }
            if any {
                new_line(out, depth);
            }
            out.push(']');
        }
        ValueKind::String => write_string(out, value.as_str().unwrap_or_default()),
        ValueKind::None | ValueKind::Undefined => out.push_str("null"),
        _ => {
            let json = serde_json::to_string(value)
                .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
            out.push_str(&json);
        }
    }
    Ok(())
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// The methods of Python's `str`, `dict` and `list` that chat templates call.
fn python_method(_state: &mut State, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let unknown = || Error::new(ErrorKind::UnknownMethod, format!("{} has no method named {method}", value.kind()));
    match value.kind() {
        ValueKind::String => {
            string_method(value.as_str().unwrap_or_default(), method, arguments).unwrap_or_else(|| Err(unknown()))
        }
        ValueKind::Map => {
            let pairs = || -> Result<Vec<(Value, Value)>, Error> {
                value.try_iter()?.map(|key| Ok((key.clone(), value.get_item(&key)?))).collect()
            };
            match (method, arguments) {
                ("items", []) => Ok(pairs()?.into_iter().map(|(k, v)| Value::from(vec![k, v])).collect()),
                ("keys", []) => Ok(pairs()?.into_iter().map(|(k, _)| k).collect()),
                ("values", []) => Ok(pairs()?.into_iter().map(|(_, v)| v).collect()),
                ("get", [key, rest @ ..]) if rest.len() <= 1 => {
                    let found = value.get_item(key)?;
                    Ok(if found.is_undefined() {
                        rest.first().cloned().unwrap_or_else(|| Value::from(()))
                    } else {
                        found
                    })
                }
                _ => Err(unknown()),
            }
        }
        ValueKind::Seq => match (method, arguments) {
            ("count", [wanted]) => Ok(Value::from(value.try_iter()?.filter(|item| item == wanted).count())),
            ("index", [wanted]) => {
                let place = value.try_iter()?.position(|item| item == *wanted);
                place
                    .map(Value::from)
                    .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "the value is not in the list"))
            }
            _ => Err(unknown()),
        },
        _ => Err(unknown()),
    }
}

fn string_method(text: &str, method: &str, arguments: &[Value]) -> Option<Result<Value, Error>> {
    let argument = |index: usize| arguments.get(index).and_then(Value::as_str);
    let strip_set = |c: char| argument(0).map_or(c.is_whitespace(), |set| set.contains(c));
    let affixes = |test: &dyn Fn(&str) -> bool| match arguments.first()? {
        one if one.as_str().is_some() => Some(test(one.as_str()?)),
        many => Some(many.try_iter().ok()?.any(|item| item.as_str().is_some_and(test))),
    };
    let value = match method {
        "strip" => Value::from(text.trim_matches(strip_set)),
        "lstrip" => Value::from(text.trim_start_matches(strip_set)),
        "rstrip" => Value::from(text.trim_end_matches(strip_set)),
        "startswith" => Value::from(affixes(&|affix| text.starts_with(affix))?),
        "endswith" => Value::from(affixes(&|affix| text.ends_with(affix))?),
        "removeprefix" => Value::from(text.strip_prefix(argument(0)?).unwrap_or(text)),
        "removesuffix" => Value::from(text.strip_suffix(argument(0)?).unwrap_or(text)),
        "upper" => Value::from(text.to_uppercase()),
        "lower" => Value::from(text.to_lowercase()),
        "capitalize" => {
            let mut chars = text.chars();
            let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
            Value::from(first + &chars.as_str().to_lowercase())
        }
        "title" => Value::from(title(text)),
        "isdigit" => Value::from(!text.is_empty() && text.chars().all(|c| c.is_ascii_digit())),
        "find" => {
            let at = text.find(argument(0)?);
            Value::from(at.map_or(-1, |at| text[..at].chars().count() as i64))
        }
        "count" => Value::from(text.matches(argument(0)?).count()),
        "replace" => {
            let (from, to) = (argument(0)?, argument(1)?);
            match arguments.get(2).and_then(Value::as_usize) {
                Some(times) => Value::from(text.replacen(from, to, times)),
                None => Value::from(text.replace(from, to)),
            }
        }
        "split" | "rsplit" => {
            let limit = arguments.get(1).and_then(Value::as_usize);
            let parts: Vec<&str> = match (argument(0), limit, method) {
                (None, None, _) => text.split_whitespace().collect(),
                (Some(by), None, _) => text.split(by).collect(),
                (Some(by), Some(limit), "split") => text.splitn(limit + 1, by).collect(),
                (Some(by), Some(limit), _) => {
                    let mut parts: Vec<&str> = text.rsplitn(limit + 1, by).collect();
                    parts.reverse();
                    parts
                }
                (None, Some(_), _) => return None,
            };
            parts.into_iter().map(Value::from).collect()
        }
        "splitlines" => text.lines().map(Value::from).collect(),
        "join" => {
            let parts: Result<Vec<String>, Error> =
                arguments.first()?.try_iter().map(|items| items.map(|item| item.to_string()).collect());
            match parts {
                Ok(parts) => Value::from(parts.join(text)),
                Err(error) => return Some(Err(error)),
            }
        }
        "format" => return Some(format_braces(text, Rest(arguments.to_vec()))),
        _ => return None,
    };
    Some(Ok(value))
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

/// `str.format` with plain `{}` places.
fn format_braces(text: &str, arguments: Rest<Value>) -> Result<Value, Error> {
    let mut out = String::new();
    let mut pieces = text.split("{}");
    out.push_str(pieces.next().unwrap_or_default());
    let mut given = arguments.iter();
    for piece in pieces {
        let value =
            given.next().ok_or_else(|| Error::new(ErrorKind::MissingArgument, "format: fewer arguments than {}"))?;
        out.push_str(&value.to_string());
        out.push_str(piece);
    }
    Ok(Value::from(out))
}

#[expect(unsafe_code, reason = "the system's strftime knows the local time zone; it fills a buffer of ours")]
fn strftime(format: &str, now: i64) -> Result<String, Error> {
    let format = std::ffi::CString::new(format)
        .map_err(|_| Error::new(ErrorKind::InvalidOperation, "strftime_now: the format holds a zero byte"))?;
    let mut buffer = [0_u8; 256];
    // SAFETY: `tm` is plain data that localtime_r fills; strftime writes at most the buffer's length and says how much.
    let written = unsafe {
        let mut tm = std::mem::zeroed::<libc::tm>();
        libc::localtime_r(&raw const now, &raw mut tm);
        libc::strftime(buffer.as_mut_ptr().cast(), buffer.len(), format.as_ptr(), &raw const tm)
    };
    Ok(String::from_utf8_lossy(&buffer[..written]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[Message]) -> Result<String> {
        let tokens = vec![("bos_token".to_string(), "<s>".to_string())];
        ChatTemplate::new(source.to_string(), tokens)?.render(messages, true, None)
    }

    #[test]
    fn python_methods_do_what_python_does() {
        let messages = [Message::new("user", "  Ab-cD ef\n")];
        let cases = [
            ("{{ messages[0].content.strip() }}", "Ab-cD ef"),
            ("{{ messages[0]['content'].strip().split('-')[-1] }}", "cD ef"),
            ("{{ 'xxyx'.lstrip('x') + 'a'.upper() + 'aBc'.capitalize() + 'ab cd'.title() }}", "yxAAbcAb Cd"),
            ("{{ 'a' if messages[0].content.startswith('  A') else 'b' }}", "a"),
            ("{{ 'a,b,c'.rsplit(',', 1)[0] }}{{ ', '.join(['x', 'y']) }}", "a,bx, y"),
            (
                "{% for k, v in messages[0].items() %}{{ k }};{% endfor %}{{ messages[0].get('name', 'none') }}",
                "role;content;none",
            ),
            ("{{ messages | tojson }}", r#"[{"role": "user", "content": "  Ab-cD ef\n"}]"#),
            ("{{ {'a': [1, true, none]} | tojson(indent=2) }}", "{\n  \"a\": [\n    1,\n    true,\n    null\n  ]\n}"),
            ("{{ bos_token }}{% for i in range(4) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "<s>01"),
            ("{{ 'dated' if strftime_now is defined else 'dateless' }}", "dateless"),
            ("{%- if true %}\n  {{ 1 }}\n{% endif %}\n", "  1\n"),
        ];
        for (source, expected) in cases {
            assert_eq!(render(source, &messages).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn a_clock_that_is_given_is_read() {
        let template = ChatTemplate::new("{{ strftime_now('%Y') }}".into(), Vec::new()).unwrap();
        assert_eq!(template.render(&[], false, Some(1_600_000_000)).unwrap(), "2020");
    }

    #[test]
    fn raised_exceptions_and_mistakes_reach_the_reader() {
        let raised = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err().to_string();
        assert!(raised.starts_with("chat template: roles must alternate"), "{raised}");
        let broken = render("{% if %}", &[]).unwrap_err().to_string();
        assert!(broken.starts_with("chat template: ") && broken.contains("line 1"), "{broken}");
        let unknown = render("{{ 'a'.frobnicate() }}", &[]).unwrap_err().to_string();
        assert!(unknown.contains("frobnicate"), "{unknown}");
    }
}
