//! More than one value at a time: pairs of elements, rows of a grid, a state that every value changes.

use super::super::eval::Value;
use super::super::phrases::{Constants, NUMBER_TESTS, Outcome, PAIR_MAPS, PAIR_TESTS, between, singular, that_are};
use super::super::task::{Draft, indented};
use super::{end, is, test};
use crate::random::Random;

fn list(random: &mut Random, lengths: &[usize], draw: impl Fn(&mut Random) -> Value) -> Value {
    let length = *random.choose(lengths);
    Value::list((0..length).map(|_| draw(random)).collect())
}

/// Pairs of elements of a list.
pub(super) fn pairs(random: &mut Random) -> Draft {
    let input =
        |random: &mut Random| vec![list(random, &[0, 1, 2, 3, 4, 5, 6], |random| Value::Int(between(random, -6, 20)))];
    let mut draft = Draft::new("pairs", "xs", Box::new(input));
    let constants = Constants::draw(random);
    let which = *random.choose(&["ij", "ij", "adj"]);
    let (x, y) = ("xs[i]", if which == "ij" { "xs[j]" } else { "xs[i + 1]" });
    let put = |code: &str| constants.fill(code).replace("{x}", x).replace("{y}", y);
    let test = random.choose(PAIR_TESTS);
    draft.need(test.helper);
    let mut code = put(test.code);
    let words = constants.fill(test.words);
    let result = *random.choose(&["count", "sum", "max", "min", "list", "first", "any", "all"]);
    let map = match result {
        "count" | "any" | "all" => &PAIR_MAPS[0],
        // A pair is no number.
        "sum" | "max" | "min" => random.choose(&PAIR_MAPS[1..]),
        _ => random.choose(PAIR_MAPS),
    };
    let v = put(map.code);
    draft.key(&[which, test.key, map.key, result]);
    let pair = if which == "ij" { "pairs of elements" } else { "pairs of neighbours" };
    let of = if map.key == "list" { pair.to_owned() } else { format!("the {} of the {pair}", map.words) };
    let opening = *random.choose(&[
        "Given a list of integers xs, find",
        "For the list xs, return",
        "You are given integers xs. Compute",
    ]);
    let none = *random.choose(&["None", "-1", "[]"]);
    let (asked, start, update, returned, outcome) = match result {
        "count" => {
            (format!("the number of {of}"), "count = 0", vec!["count += 1".to_owned()], "count", Outcome::Number)
        }
        "sum" => (format!("the total of {of}"), "total = 0", vec![format!("total += {v}")], "total", Outcome::Number),
        "max" | "min" => {
            let (word, op) = if result == "max" { ("largest", ">") } else { ("smallest", "<") };
            let update =
                vec![format!("v = {v}"), format!("if best is None or v {op} best:"), "    best = v".to_owned()];
            (format!("the {word} of {of}"), "best = None", update, "best", Outcome::Optional)
        }
        "list" => (format!("the list of {of}"), "out = []", vec![format!("out.append({v})")], "out", Outcome::List),
        "first" => (format!("the first of {of}"), "", vec![format!("return {v}")], none, Outcome::Raw),
        "any" => (format!("whether there are {pair}"), "", vec!["return True".to_owned()], "False", Outcome::Raw),
        _ => {
            code = format!("not ({code})");
            (format!("whether in all {pair} it holds"), "", vec!["return False".to_owned()], "True", Outcome::Raw)
        }
    };
    let that = if result == "all" { "that" } else { "such that" };
    draft.say(format!("{opening} {asked} {that} {words}."));
    if result == "first" {
        draft.say(format!("Return {none} if there is none."));
    }
    draft.lines((!start.is_empty()).then_some(start));
    let mut body = vec![format!("if {code}:")];
    body.extend(indented(update));
    if which == "ij" {
        draft.lines(["for i in range(len(xs)):", "    for j in range(i + 1, len(xs)):"]);
        draft.lines(indented(indented(body)));
    } else if random.below(2) == 0 {
        draft.lines(["for i in range(len(xs) - 1):"]);
        draft.lines(indented(body));
    } else {
        draft.say("Use a while loop.");
        draft.key(&["wh"]);
        draft.lines(["i = 0", "while i < len(xs) - 1:"]);
        body.push("i += 1".to_owned());
        draft.lines(indented(body));
    }
    end(random, &mut draft, returned, outcome);
    draft
}

/// The rows of a list of lists.
pub(super) fn grid(random: &mut Random) -> Draft {
    let input = |random: &mut Random| {
        let number = |random: &mut Random| {
            Value::Int(if random.uniform() < 0.8 { between(random, -10, 30) } else { between(random, 30, 300) })
        };
        vec![list(random, &[0, 1, 2, 3, 4], |random| list(random, &[0, 1, 2, 3, 4, 5], number))]
    };
    let mut draft = Draft::new("grids", "grid", Box::new(input));
    let constants = Constants::draw(random);
    let (test_key, words, code) = test(random, NUMBER_TESTS, &constants, &mut draft, "x");
    let (inner, inner_words, start, update, value) = match random.below(5) {
        0 => ("sum", "the sum of the elements", "total = 0", vec!["total += x"], "total"),
        1 => ("count", "the number of elements", "count = 0", vec!["count += 1"], "count"),
        2 => ("max", "the largest element (or 0)", "top = 0", vec!["if x > top:", "    top = x"], "top"),
        3 => (
            "uniq",
            "the number of different elements",
            "seen = []",
            vec!["if x not in seen:", "    seen.append(x)"],
            "len(seen)",
        ),
        _ => ("squares", "the sum of squares of the elements", "total = 0", vec!["total += x * x"], "total"),
    };
    let outer = *random.choose(&["max", "min", "sum", "list", "count", "argmax"]);
    draft.key(&[&test_key, inner, outer]);
    let least = between(random, 1, 9);
    let owned = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>();
    let (outer_words, before, behind, returned, outcome) = match outer {
        "max" | "min" => {
            let (word, op) = if outer == "max" { ("largest", ">") } else { ("smallest", "<") };
            let behind = vec![format!("if best is None or {value} {op} best:"), format!("    best = {value}")];
            (format!("the {word} value over the rows"), owned(&["best = None"]), behind, "best", Outcome::Optional)
        }
        "sum" => (
            format!("the sum of the values greater than {least} over the rows"),
            owned(&["result = 0"]),
            vec![format!("if {value} > {least}:"), format!("    result += {value}")],
            "result",
            Outcome::Number,
        ),
        "list" => (
            "the list of values over the rows".to_owned(),
            owned(&["out = []"]),
            vec![format!("out.append({value})")],
            "out",
            Outcome::List,
        ),
        "count" => (
            format!("the number of rows with value greater than {least}"),
            owned(&["rows = 0"]),
            vec![format!("if {value} > {least}:"), "    rows += 1".to_owned()],
            "rows",
            Outcome::Number,
        ),
        _ => (
            "the position of the first row with the largest value (-1 if there are no rows)".to_owned(),
            owned(&["best = -1", "where = -1"]),
            vec![format!("if {value} > best:"), format!("    best = {value}"), "    where = i".to_owned()],
            "where",
            Outcome::Raw,
        ),
    };
    // A sum may be smaller than any start that is not None.
    let (before, behind) = if outer == "argmax" && inner == "sum" {
        let behind = vec![
            format!("if best is None or {value} > best:"),
            format!("    best = {value}"),
            "    where = i".to_owned(),
        ];
        (owned(&["best = None", "where = -1"]), behind)
    } else {
        (before, behind)
    };
    let opening = *random.choose(&["Given a list of lists grid, take for each row", "For each row of grid compute"]);
    draft.say(format!("{opening} {inner_words} {}. Return {outer_words}.", that_are(&words)));
    let mut body = Vec::new();
    let stop = *random.choose(&["no", "no", "skip", "brk"]);
    match stop {
        "skip" => {
            body.extend(owned(&["if len(row) < 2:", "    continue"]));
            draft.say("Skip rows with fewer than 2 elements.");
        }
        "brk" => {
            body.extend(owned(&["if not row:", "    break"]));
            draft.say("Stop at the first empty row.");
        }
        _ => {}
    }
    draft.key(&[stop]);
    body.extend([start.to_owned(), "for x in row:".to_owned(), format!("    if {code}:")]);
    body.extend(indented(indented(update)));
    body.extend(behind);
    draft.lines(before);
    draft.lines([if outer == "argmax" { "for i, row in enumerate(grid):" } else { "for row in grid:" }]);
    draft.lines(indented(body));
    end(random, &mut draft, returned, outcome);
    draft
}

/// A number that every value of a list changes.
pub(super) fn state(random: &mut Random) -> Draft {
    let input = |random: &mut Random| {
        let values = list(random, &[0, 1, 2, 3, 5, 7], |random| Value::Int(between(random, -20, 40)));
        vec![values, Value::Int(between(random, -10, 30))]
    };
    let mut draft = Draft::new("state", "ops, x", Box::new(input));
    let (p, m) = (between(random, 2, 9), between(random, 4, 7));
    let actions = [
        ("add", "add it to x".to_owned(), "x += v".to_owned()),
        ("sub", "subtract it from x".to_owned(), "x -= v".to_owned()),
        ("addk", format!("add {p} to x"), format!("x += {p}")),
        ("dbl", "double x".to_owned(), "x *= 2".to_owned()),
        ("neg", "negate x".to_owned(), "x = -x".to_owned()),
        ("set", "set x to it".to_owned(), "x = v".to_owned()),
        ("subk", format!("subtract {p} from x"), format!("x -= {p}")),
        ("mod", format!("take x modulo {m}"), format!("x %= {m}")),
    ];
    let mut order: Vec<usize> = (0..actions.len()).collect();
    random.shuffle(&mut order);
    let [first, second, third] = [0, 1, 2].map(|place| &actions[order[place]]);
    let constants = Constants::draw(random);
    let (key, words, code) = test(random, NUMBER_TESTS, &constants, &mut draft, "v");
    draft.key(&[&key, first.0, second.0]);
    let opening = *random
        .choose(&["Start with x and go through the list ops.", "Process the values of ops in order, starting from x."]);
    draft.say(format!("{opening} If the value {}, {}, otherwise {}.", is(&words), first.1, second.1));
    let mut body =
        vec![format!("if {code}:"), format!("    {}", first.2), "else:".to_owned(), format!("    {}", second.2)];
    let also = *random.choose(&["no", "lim", "reset", "cond", "cnt"]);
    draft.key(&[also]);
    let mut returned = "x";
    let after = |random: &mut Random, draft: &mut Draft| {
        let others = Constants::draw(random);
        let (key, words, code) = test(random, NUMBER_TESTS, &others, draft, "x");
        draft.key(&[&key]);
        (singular(&words), code)
    };
    match also {
        "lim" => {
            let bound = between(random, 10, 60);
            body.extend([format!("if x > {bound}:"), "    break".to_owned()]);
            draft.say(format!("Stop when x is more than {bound}."));
        }
        "reset" => {
            body.extend(["if x < 0:".to_owned(), "    x = 0".to_owned()]);
            draft.say("Whenever x is negative, set it to 0.");
        }
        "cond" => {
            let (words, code) = after(random, &mut draft);
            draft.key(&[third.0]);
            body.extend([format!("if {code}:"), format!("    {}", third.2)]);
            draft.say(format!("After that, if x is {words}, {}.", third.1));
        }
        "cnt" => {
            let (words, code) = after(random, &mut draft);
            body.extend([format!("if {code}:"), "    count += 1".to_owned()]);
            draft.lines(["count = 0"]);
            draft.say(format!("Return how many times x is {words} after a step."));
            returned = "count";
        }
        _ => {}
    }
    if also != "cnt" {
        draft.say("Return x at the end.");
    }
    draft.lines(["for v in ops:"]);
    draft.lines(indented(body));
    draft.lines([format!("return {returned}")]);
    draft
}
