//! Small changes to programs: mutants, which good tests tell from the program, and the bad habits of a careless author.

use super::python::{BinOp, Builtin, CmpOp, Expr, Module, Stmt};
use crate::random::Random;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bad habits that sit inside a block, where a hole of that block shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InsideHabit {
    /// `>=` and `<=` are written `>` and `<`.
    StrictComparison,
    /// The stop of a range loses its one: `range(a, b + 1)` is written `range(a, b)`.
    OffByOne,
    /// Accumulators start one too high: `count = 0` is written `count = 1`.
    AccumulatorStart,
    /// Accumulators are overwritten: `total += x` is written `total = x`.
    OverwrittenAccumulator,
    /// The branches of an `if` with `else` change places.
    SwappedBranches,
    /// Loops end early: `i < len(xs)` is written `i < len(xs) - 1`, `n > 4` is written `n > 5` (`n > 0`: `n > 9`).
    LoopBound,
}

impl InsideHabit {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::StrictComparison,
        Self::OffByOne,
        Self::AccumulatorStart,
        Self::OverwrittenAccumulator,
        Self::SwappedBranches,
        Self::LoopBound,
    ];
}

/// Bad habits that concern whole blocks: only a hole of what is around them can show them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WholeHabit {
    /// The guards on the top level of the function are left out: `if not xs: return 0`, `if a > b: a, b = b, a`.
    DroppedGuard,
}

impl WholeHabit {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::DroppedGuard];
}

/// Up to `count` programs that differ from this one in one place.
pub(super) fn mutants(module: &Module, count: usize, random: &mut Random) -> Vec<Module> {
    let mut counter = Mutator { target: usize::MAX, seen: 0, up: true };
    counter.module(&mut module.clone());
    let mut places: Vec<usize> = (0..counter.seen).collect();
    random.shuffle(&mut places);
    places
        .into_iter()
        .take(count)
        .map(|target| {
            let mut mutant = module.clone();
            Mutator { target, seen: 0, up: random.below(2) == 0 }.module(&mut mutant);
            mutant
        })
        .collect()
}

/// Walks a program, counts the places where it can be changed, and changes the one whose number is `target`.
struct Mutator {
    target: usize,
    seen: usize,
    /// Whether a constant grows or shrinks.
    up: bool,
}

impl Mutator {
    fn hit(&mut self) -> bool {
        self.seen += 1;
        self.seen - 1 == self.target
    }

    fn module(&mut self, module: &mut Module) {
        for function in &mut module.functions {
            self.block(&mut function.body);
        }
    }

    fn block(&mut self, body: &mut Vec<Stmt>) {
        let mut dropped = None;
        for (place, stmt) in body.iter_mut().enumerate() {
            match stmt {
                Stmt::Assign(_, values) => values.iter_mut().for_each(|value| self.expr(value)),
                Stmt::SetItem(_, key, value) => {
                    self.expr(key);
                    self.expr(value);
                }
                Stmt::Augment(_, op, value) => {
                    if matches!(op, BinOp::Add | BinOp::Sub) && self.hit() {
                        *op = if *op == BinOp::Add { BinOp::Sub } else { BinOp::Add };
                    }
                    self.expr(value);
                }
                Stmt::If(test, body, orelse) => {
                    if orelse.is_empty() && body.len() == 1 {
                        if self.hit() {
                            dropped = Some(place);
                        }
                    } else if !orelse.is_empty() && self.hit() {
                        std::mem::swap(body, orelse);
                    }
                    self.expr(test);
                    self.block(body);
                    self.block(orelse);
                }
                Stmt::While(test, body) => {
                    self.expr(test);
                    self.block(body);
                }
                Stmt::For(_, items, body) => {
                    self.expr(items);
                    self.block(body);
                }
                Stmt::Return(value) | Stmt::Expr(value) => self.expr(value),
                Stmt::Break => {
                    if self.hit() {
                        *stmt = Stmt::Continue;
                    }
                }
                Stmt::Continue => {
                    if self.hit() {
                        *stmt = Stmt::Break;
                    }
                }
            }
        }
        if let Some(place) = dropped {
            body.remove(place);
        }
    }

    fn expr(&mut self, expr: &mut Expr) {
        match expr {
            Expr::Int(value) => {
                if self.hit() {
                    *value += if self.up { 1 } else { -1 };
                }
            }
            Expr::None | Expr::Bool(_) | Expr::Str(_) | Expr::Name(_) | Expr::Dict => {}
            Expr::Neg(inner) | Expr::Not(inner) => self.expr(inner),
            Expr::Binary(_, left, right) => {
                self.expr(left);
                self.expr(right);
            }
            Expr::And(left, right) => {
                self.expr(left);
                self.expr(right);
                if self.hit() {
                    *expr = Expr::Or(left.clone(), right.clone());
                }
            }
            Expr::Or(left, right) => {
                self.expr(left);
                self.expr(right);
                if self.hit() {
                    *expr = Expr::And(left.clone(), right.clone());
                }
            }
            Expr::Compare(first, rest) => {
                self.expr(first);
                for (op, value) in rest {
                    let other = mutated(*op);
                    if other != *op && self.hit() {
                        *op = other;
                    }
                    self.expr(value);
                }
            }
            Expr::Builtin(Builtin::Reversed, arguments) => {
                if self.hit() {
                    *expr = arguments[0].clone();
                }
            }
            Expr::List(items) | Expr::Call(_, items) | Expr::Builtin(_, items) => {
                items.iter_mut().for_each(|item| self.expr(item));
            }
            Expr::Method(object, _, arguments) => {
                self.expr(object);
                arguments.iter_mut().for_each(|argument| self.expr(argument));
            }
            Expr::Index(object, index) => {
                self.expr(object);
                self.expr(index);
            }
            Expr::Slice(object, _) => {
                self.expr(object);
                if self.hit() {
                    *expr = (**object).clone();
                }
            }
        }
    }
}

fn mutated(op: CmpOp) -> CmpOp {
    match op {
        CmpOp::Gt => CmpOp::Ge,
        CmpOp::Ge => CmpOp::Gt,
        CmpOp::Lt => CmpOp::Le,
        CmpOp::Le => CmpOp::Lt,
        CmpOp::Eq => CmpOp::Ne,
        CmpOp::Ne => CmpOp::Eq,
        CmpOp::In => CmpOp::NotIn,
        CmpOp::NotIn => CmpOp::In,
        CmpOp::Is | CmpOp::IsNot => op,
    }
}

/// Rewrites the main function as an author with this habit would have written it.
pub(super) fn inside_habit(module: &mut Module, habit: InsideHabit) {
    let solve = module.functions.last_mut().expect("a program has a function");
    each_stmt(&mut solve.body, &mut |stmt| match habit {
        InsideHabit::StrictComparison => each_expr_of(stmt, &mut |expr| {
            if let Expr::Compare(_, rest) = expr {
                for (op, _) in rest {
                    *op = match *op {
                        CmpOp::Le => CmpOp::Lt,
                        CmpOp::Ge => CmpOp::Gt,
                        other => other,
                    };
                }
            }
        }),
        InsideHabit::OffByOne => {
            if let Some(stop @ Expr::Binary(..)) = range_stop(stmt)
                && let Expr::Binary(BinOp::Add | BinOp::Sub, base, one) = stop
                && matches!((&**base, &**one), (Expr::Name(_), Expr::Int(1)))
            {
                *stop = (**base).clone();
            }
        }
        InsideHabit::AccumulatorStart => {
            if let Stmt::Assign(_, values) = stmt
                && let [Expr::Int(start @ 0)] = values.as_mut_slice()
            {
                *start = 1;
            }
        }
        InsideHabit::OverwrittenAccumulator => {
            if let Stmt::Augment(name, BinOp::Add | BinOp::Mul, value) = stmt
                && !matches!(value, Expr::Int(_))
            {
                *stmt = Stmt::Assign(vec![*name], vec![value.clone()]);
            }
        }
        InsideHabit::SwappedBranches => {
            if let Stmt::If(_, body, orelse) = stmt
                && !orelse.is_empty()
            {
                std::mem::swap(body, orelse);
            }
        }
        InsideHabit::LoopBound => {
            if let Stmt::While(Expr::Compare(_, rest), _) = stmt {
                match rest.as_mut_slice() {
                    [(CmpOp::Gt, Expr::Int(bound))] => *bound += if *bound == 0 { 9 } else { 1 },
                    [(CmpOp::Lt, bound)] => shorten(bound),
                    _ => {}
                }
            } else if let Some(stop) = range_stop(stmt) {
                shorten(stop);
            }
        }
    });
}

/// Rewrites the main function as an author with this habit would have written it.
pub(super) fn whole_habit(module: &mut Module, habit: WholeHabit) {
    let WholeHabit::DroppedGuard = habit;
    let solve = module.functions.last_mut().expect("a program has a function");
    solve.body.retain(|stmt| {
        let Stmt::If(_, body, orelse) = stmt else { return true };
        let guard = match body.as_slice() {
            [Stmt::Return(_)] => true,
            [Stmt::Assign(targets, _)] => targets.len() > 1,
            _ => false,
        };
        !(guard && orelse.is_empty())
    });
}

/// `len(xs)` becomes `len(xs) - 1`, `len(xs) - 1` becomes `len(xs) - 2`.
fn shorten(bound: &mut Expr) {
    match bound {
        Expr::Builtin(Builtin::Len, _) => {
            *bound = Expr::Binary(BinOp::Sub, bound.clone().into(), Expr::Int(1).into());
        }
        Expr::Binary(BinOp::Sub, base, by) => {
            if let (Expr::Builtin(Builtin::Len, _), Expr::Int(by)) = (&**base, &mut **by) {
                *by += 1;
            }
        }
        _ => {}
    }
}

fn range_stop(stmt: &mut Stmt) -> Option<&mut Expr> {
    let Stmt::For(_, Expr::Builtin(Builtin::Range, arguments), _) = stmt else { return None };
    let stop = usize::from(arguments.len() > 1);
    arguments.get_mut(stop)
}

fn each_stmt(body: &mut [Stmt], change: &mut impl FnMut(&mut Stmt)) {
    for stmt in body {
        change(stmt);
        match stmt {
            Stmt::If(_, body, orelse) => {
                each_stmt(body, change);
                each_stmt(orelse, change);
            }
            Stmt::While(_, body) | Stmt::For(_, _, body) => each_stmt(body, change),
            _ => {}
        }
    }
}

/// The expressions of a statement's own line that can hold a comparison: tests and returned values, through `and`, `or` and `not`.
fn each_expr_of(stmt: &mut Stmt, change: &mut impl FnMut(&mut Expr)) {
    fn walk(expr: &mut Expr, change: &mut impl FnMut(&mut Expr)) {
        change(expr);
        match expr {
            Expr::And(left, right) | Expr::Or(left, right) => {
                walk(left, change);
                walk(right, change);
            }
            Expr::Not(inner) => walk(inner, change),
            _ => {}
        }
    }
    match stmt {
        Stmt::If(test, ..) | Stmt::While(test, _) | Stmt::Return(test) => walk(test, change),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    const PROGRAM: &str = "def solve(a, b, xs):
    if a > b:
        a, b = b, a
    if not xs:
        return 0
    total = 0
    for i in range(a, b + 1):
        if i >= 3:
            total += i
        else:
            total -= 1
    while a < len(xs):
        a += 1
    return total
";

    fn with(habit: InsideHabit) -> String {
        let mut module = parse(PROGRAM).unwrap();
        inside_habit(&mut module, habit);
        module.print()
    }

    #[test]
    fn each_habit_changes_what_it_says_and_nothing_else() {
        for (habit, from, to) in [
            (InsideHabit::StrictComparison, "i >= 3", "i > 3"),
            (InsideHabit::OffByOne, "range(a, b + 1)", "range(a, b)"),
            (InsideHabit::AccumulatorStart, "total = 0", "total = 1"),
            (InsideHabit::OverwrittenAccumulator, "total += i", "total = i"),
            (InsideHabit::LoopBound, "a < len(xs)", "a < len(xs) - 1"),
        ] {
            assert_eq!(with(habit), PROGRAM.replace(from, to), "{habit:?}");
        }
        let swapped = with(InsideHabit::SwappedBranches);
        assert!(swapped.contains("if i >= 3:\n            total -= 1\n        else:\n            total += i\n"));
        let mut module = parse(PROGRAM).unwrap();
        whole_habit(&mut module, WholeHabit::DroppedGuard);
        let from = "    if a > b:\n        a, b = b, a\n    if not xs:\n        return 0\n";
        assert_eq!(module.print(), PROGRAM.replace(from, ""));
    }

    #[test]
    fn every_mutant_differs_from_the_program_and_from_the_others() {
        let module = parse(PROGRAM).unwrap();
        let mutants = mutants(&module, 100, &mut Random::new(1, "test", "mutants", ""));
        assert!(mutants.len() >= 14, "{}", mutants.len());
        for (number, mutant) in mutants.iter().enumerate() {
            assert_ne!(*mutant, module);
            assert!(mutants[..number].iter().all(|other| other != mutant), "{}", mutant.print());
        }
    }
}
