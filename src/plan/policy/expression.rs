//! Expressions of policies in CEL (<https://cel.dev>), with bounded work: a policy may be a stranger's, and must neither hang nor
//! exhaust memory. The interpreter knows no limit of its own, so what an expression copies, compares and goes through is counted by
//! functions that are put into it once it is parsed. Knows neither files nor what policies are about.

use cel::common::ast::{CallExpr, EntryExpr, Expr, LiteralValue, operators};
use cel::common::types::{CelBool, CelBytes, CelInt, CelList, CelMap, CelString};
use cel::common::value::{CowVal, Val};
use cel::objects::{Key, Map};
use cel::{Context, Env, ExecutionError, FunctionContext, IdedExpr, Value};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// The longest expression, in bytes.
pub(super) const MOST_TEXT: usize = 4096;
/// Parts of an expression.
const MOST_PARTS: usize = 1500;
/// Parts inside one another. `a + a + a` is two.
const MOST_DEPTH: usize = 150;
/// Brackets inside one another.
const MOST_BRACKETS: u16 = 40;
/// The work that one expression may do, in values that it looks at. 10,000 hosts of twenty values are gone through some ten times with
/// this, in about a second.
const MOST_WORK: i64 = 4_000_000;
/// The work of all expressions together.
const MOST_WORK_OF_ALL: i64 = 20_000_000;
/// Bytes of text that count as one value.
const TEXT_UNIT: usize = 64;
/// The longest message of the interpreter that is shown, in characters.
const MOST_MESSAGE: usize = 300;
/// The stack of the threads that parse and evaluate: both are recursive, and the main thread's may be small.
const STACK: usize = 64 << 20;

/// Functions that expressions may call besides operators. Others of the interpreter are left out: what is not needed cannot surprise.
const FUNCTIONS: [&str; 10] =
    ["size", "contains", "startsWith", "endsWith", "string", "int", "double", "type", "min", "max"];
/// Operators. Those of optional values are left out.
const OPERATORS: [&str; 18] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
    operators::IN,
];
/// Macros, as they are named where they were not expanded: with the wrong number of arguments.
const MACROS: [&str; 6] = ["all", "exists", "exists_one", "filter", "map", "has"];

/// An expression that was read.
#[derive(Clone, Debug)]
pub(super) struct Expression(IdedExpr);

/// What an expression came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// `true` or `false`.
    Is(bool),
    /// A list of texts, in order.
    Names(Vec<String>),
}

/// Runs something recursive on a stack that is large enough; `None` if it panicked.
pub(super) fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work).ok()?.join().ok()
    })
}

/// Returns the interpreter's message, in one line of bounded length.
fn shortened(text: &str) -> String {
    let text: String = text.chars().take(MOST_MESSAGE + 1).collect();
    let short: String = text.chars().take(MOST_MESSAGE).collect();
    if short.len() < text.len() { short + "…" } else { short }
}

impl Expression {
    /// Reads an expression that may name these variables. The error says what is wrong, and where in the text.
    pub(super) fn parse(text: &str, variables: &[&str]) -> Result<Self, String> {
        if text.len() > MOST_TEXT {
            return Err(format!("longer than {MOST_TEXT} bytes"));
        }
        let parser = Env::stdlib().parser().max_recursion_depth(MOST_BRACKETS).error_recovery_limit(1);
        let mut parsed = parser.parse(text).map_err(|found| match found.errors.first() {
            Some(first) => {
                let at = match first.pos {
                    (line, column) if line > 0 => format!(" (line {line}, column {})", column + 1),
                    _ => String::new(),
                };
                let said = first.msg.split(" expecting {").next().unwrap_or_default();
                match said.contains("Recursion limit") {
                    true => format!("more than {MOST_BRACKETS} brackets or conditions inside one another"),
                    false => shortened(&format!("{said}{at}")),
                }
            }
            None => "not an expression".to_owned(),
        })?;
        let (mut parts, mut names) = (0, Vec::new());
        check(&parsed, &mut parts, 0, &mut names, variables)?;
        meter(&mut parsed);
        Ok(Self(parsed))
    }

    /// Evaluates it.
    pub(super) fn evaluate(&self, scope: &Scope) -> Result<Answer, String> {
        let before = scope.meter.of_all.load(Ordering::Relaxed).min(MOST_WORK);
        scope.meter.left.store(before, Ordering::Relaxed);
        let answer = Value::resolve_val(&self.0, &scope.context);
        let used = before - scope.meter.left.load(Ordering::Relaxed);
        scope.meter.of_all.fetch_sub(used, Ordering::Relaxed);
        // Before any error: `||` and `all` take an error for less than it is.
        if scope.meter.is_exhausted() {
            return Err(format!(
                "too much work: it looks at more than {} million values",
                before / 1_000_000
            ));
        }
        let answer = answer.map_err(|error| shortened(&error.to_string()))?;
        if let Some(is) = answer.downcast_ref::<CelBool>() {
            return Ok(Answer::Is(*is.inner()));
        }
        let wrong = |got: &str| format!("expected true, false or a list of texts, got {got}");
        let Some(list) = answer.downcast_ref::<CelList>() else {
            return Err(wrong(answer.get_type().name()));
        };
        let name = |item: &dyn Val| match item.downcast_ref::<CelString>() {
            Some(text) => Ok(shortened(text.inner())),
            None => Err(wrong(&format!("a list with {}", item.get_type().name()))),
        };
        let mut names = list.inner().iter().map(|item| name(item.as_ref())).collect::<Result<Vec<_>, _>>()?;
        // Maps are gone through in no order.
        names.sort();
        names.dedup();
        Ok(Answer::Names(names))
    }
}

/// Refuses what is too large, and names that stand for nothing. `bound` are the variables of the macros around it.
fn check<'e>(
    at: &'e IdedExpr,
    parts: &mut usize,
    depth: usize,
    bound: &mut Vec<&'e str>,
    variables: &[&str],
) -> Result<(), String> {
    *parts += 1;
    if *parts > MOST_PARTS {
        return Err(format!("more than {MOST_PARTS} parts"));
    }
    if depth > MOST_DEPTH {
        return Err(format!("more than {MOST_DEPTH} parts inside one another"));
    }
    let inside = |parts: &mut usize, bound: &mut Vec<&'e str>, e: &'e IdedExpr| {
        check(e, parts, depth + 1, bound, variables)
    };
    match &at.expr {
        Expr::Unspecified => Err("not an expression".to_owned()),
        Expr::Literal(_) => Ok(()),
        Expr::Ident(name) => match bound.contains(&name.as_str()) || variables.contains(&name.as_str()) {
            true => Ok(()),
            false => Err(format!("unknown variable `{name}`: use one of {}", variables.join(", "))),
        },
        Expr::Select(select) => inside(parts, bound, &select.operand),
        Expr::Call(call) => {
            let name = call.func_name.as_str();
            if name == operators::NOT_STRICTLY_FALSE {
                return call.args.iter().try_for_each(|arg| inside(parts, bound, arg));
            }
            if MACROS.contains(&name) {
                return Err(format!("`{name}` is not called like this"));
            }
            if !OPERATORS.contains(&name) && !FUNCTIONS.contains(&name) {
                return Err(format!("unknown function `{name}`: use one of {}", FUNCTIONS.join(", ")));
            }
            if let Some(target) = &call.target {
                inside(parts, bound, target)?;
            }
            call.args.iter().try_for_each(|arg| inside(parts, bound, arg))
        }
        Expr::List(list) if !list.optional_indices.is_empty() => {
            Err("optional values are not supported".to_owned())
        }
        Expr::List(list) => list.elements.iter().try_for_each(|item| inside(parts, bound, item)),
        Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) if entry.optional => {
                Err("optional values are not supported".to_owned())
            }
            EntryExpr::MapEntry(entry) => {
                inside(parts, bound, &entry.key)?;
                inside(parts, bound, &entry.value)
            }
            EntryExpr::StructField(_) => Err("a field outside a mapping".to_owned()),
        }),
        Expr::Struct(made) => Err(format!("unknown type `{}`", made.type_name)),
        Expr::Comprehension(over) => {
            inside(parts, bound, &over.iter_range)?;
            inside(parts, bound, &over.accu_init)?;
            let before = bound.len();
            bound.extend([over.iter_var.as_str(), over.accu_var.as_str()]);
            bound.extend(over.iter_var2.as_deref());
            for part in [&over.loop_cond, &over.loop_step, &over.result] {
                inside(parts, bound, part)?;
            }
            bound.truncate(before);
            Ok(())
        }
    }
}

/// Counts a whole value, with all that is in it.
const WHOLE: &str = "@whole";
/// Counts a text by its length, and anything else as one.
const TEXT: &str = "@text";
/// Counts what a macro goes through: its items, and what it does with each.
const LOOP: &str = "@loop";
/// `in`, counted.
const MEMBER: &str = "@member";
/// `[…]`, counted.
const AT: &str = "@at";

fn call(name: &str, args: Vec<IdedExpr>) -> IdedExpr {
    let expr = Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args });
    IdedExpr { id: 0, expr }
}

/// Puts a function around a part, unless that is a literal.
fn wrap(at: &mut IdedExpr, name: &str) {
    if !matches!(at.expr, Expr::Literal(_)) {
        let inner = std::mem::take(at);
        *at = call(name, vec![inner]);
    }
}

/// Returns whether a part is what a macro has collected so far; it can only be added to.
fn is_collected(at: &IdedExpr) -> bool {
    matches!(&at.expr, Expr::Ident(name) if name.starts_with('@'))
}

/// Puts the functions into an expression that count what it does. Returns its number of parts.
fn meter(at: &mut IdedExpr) -> usize {
    let mut parts = 1;
    match &mut at.expr {
        Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) | Expr::Struct(_) => {}
        Expr::Select(select) => parts += meter(&mut select.operand),
        Expr::Call(made) => {
            parts += made.target.iter_mut().map(|target| meter(target)).sum::<usize>();
            parts += made.args.iter_mut().map(meter).sum::<usize>();
            let literal = |e: &IdedExpr| matches!(e.expr, Expr::Literal(_));
            match made.func_name.as_str() {
                operators::CONDITIONAL | operators::LOGICAL_AND | operators::LOGICAL_OR => {}
                operators::LOGICAL_NOT | operators::NOT_STRICTLY_FALSE => {}
                // As long as the shorter of the two.
                operators::EQUALS | operators::NOT_EQUALS if made.args.iter().any(literal) => {}
                // The interpreter appends in place only what it knows in this very form.
                operators::ADD if made.args.first().is_some_and(is_collected) => {}
                operators::IN => made.func_name = MEMBER.to_owned(),
                operators::INDEX => made.func_name = AT.to_owned(),
                name => {
                    let counted = if name == "size" { TEXT } else { WHOLE };
                    for part in made.target.iter_mut().map(Box::as_mut).chain(&mut made.args) {
                        wrap(part, counted);
                    }
                }
            }
        }
        Expr::List(list) => {
            for item in &mut list.elements {
                parts += meter(item);
                wrap(item, WHOLE);
            }
        }
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    parts += meter(&mut entry.key) + meter(&mut entry.value);
                    wrap(&mut entry.key, WHOLE);
                    wrap(&mut entry.value, WHOLE);
                }
            }
        }
        Expr::Comprehension(over) => {
            let each = meter(&mut over.loop_step) + meter(&mut over.loop_cond) + 1;
            parts += each + meter(&mut over.iter_range) + meter(&mut over.result);
            let range = std::mem::take(&mut over.iter_range);
            let each = IdedExpr { id: 0, expr: Expr::Literal(LiteralValue::Int(CelInt::from(each as i64))) };
            over.iter_range = call(LOOP, vec![range, each]);
        }
    }
    parts
}

/// How much work is left.
struct Meter {
    /// For the expression that is evaluated.
    left: AtomicI64,
    /// For it and all later ones.
    of_all: AtomicI64,
}

impl Meter {
    fn is_exhausted(&self) -> bool {
        self.left.load(Ordering::Relaxed) < 0
    }

    fn spend(&self, units: usize) -> Result<(), ExecutionError> {
        let units = i64::try_from(units).unwrap_or(MOST_WORK).min(MOST_WORK);
        // Once it is exhausted it stays so, however often it is asked.
        let left = self.left.load(Ordering::Relaxed);
        if left >= 0 {
            self.left.store(left - units, Ordering::Relaxed);
        }
        match self.is_exhausted() {
            true => Err(ExecutionError::function_error("policy", "too much work")),
            false => Ok(()),
        }
    }

    /// Counts a value with all that is in it, as far as there is work left.
    fn whole(&self, value: &dyn Val) -> Result<(), ExecutionError> {
        self.text(value)?;
        if let Some(list) = value.downcast_ref::<CelList>() {
            return list.inner().iter().try_for_each(|item| self.whole(item.as_ref()));
        }
        if let Some(map) = value.downcast_ref::<CelMap>() {
            for (key, value) in map.inner() {
                self.text(key.inner())?;
                self.whole(value.as_ref())?;
            }
        }
        Ok(())
    }

    fn text(&self, value: &dyn Val) -> Result<(), ExecutionError> {
        let length = match (value.downcast_ref::<CelString>(), value.downcast_ref::<CelBytes>()) {
            (Some(text), _) => text.inner().len(),
            (_, Some(bytes)) => bytes.inner().len(),
            _ => 0,
        };
        self.spend(1 + length / TEXT_UNIT)
    }

    /// Counts the items of a value, so many units each.
    fn items(&self, value: &dyn Val, each: usize) -> Result<(), ExecutionError> {
        let size = value.as_sizer().map_or(0, |sizer| *sizer.size().inner());
        self.spend(usize::try_from(size).unwrap_or_default().saturating_mul(each).saturating_add(1))
    }
}

type Counting = Box<
    dyn for<'c, 'v> Fn(&mut FunctionContext<'c, 'v>) -> Result<CowVal<'c, 'v>, ExecutionError> + Send + Sync,
>;

fn wrong(name: &str) -> ExecutionError {
    ExecutionError::function_error(name, "not called by any expression")
}

/// Variables, and the functions that count.
pub(super) struct Scope {
    context: Context<'static, 'static>,
    meter: Arc<Meter>,
}

impl Scope {
    /// Returns the scope of an expression in which these names stand for these values.
    pub(super) fn new<'a>(
        variables: impl IntoIterator<Item = (&'a str, &'a serde_json::Value)>,
    ) -> Result<Self, String> {
        let meter = Arc::new(Meter { left: AtomicI64::new(0), of_all: AtomicI64::new(MOST_WORK_OF_ALL) });
        let mut context = Context::with_env(Arc::new(Env::stdlib()));
        for (name, value) in variables {
            context.add_variable_from_value(name, value_of(value));
        }
        let counted = meter.clone();
        let whole: Counting = Box::new(move |call| {
            let value = call.args.pop().ok_or_else(|| wrong(WHOLE))?;
            counted.whole(value.as_ref())?;
            Ok(value)
        });
        let counted = meter.clone();
        let text: Counting = Box::new(move |call| {
            let value = call.args.pop().ok_or_else(|| wrong(TEXT))?;
            counted.text(value.as_ref())?;
            Ok(value)
        });
        let counted = meter.clone();
        let each: Counting = Box::new(move |call| {
            let (Some(each), Some(value)) = (call.args.pop(), call.args.pop()) else {
                return Err(wrong(LOOP));
            };
            let each = each.downcast_ref::<CelInt>().map_or(1, |n| *n.inner());
            counted.whole(value.as_ref())?;
            counted.items(value.as_ref(), usize::try_from(each).unwrap_or(1))?;
            Ok(value)
        });
        let counted = meter.clone();
        let member: Counting = Box::new(move |call| {
            let (Some(many), Some(one)) = (call.args.pop(), call.args.pop()) else {
                return Err(wrong(MEMBER));
            };
            match (
                one.as_sizer().is_some() && one.downcast_ref::<CelString>().is_none(),
                many.downcast_ref::<CelMap>(),
            ) {
                (true, _) => counted.whole(many.as_ref())?,
                (false, Some(_)) => counted.spend(1)?,
                (false, None) => counted.items(many.as_ref(), 1)?,
            }
            counted.whole(one.as_ref())?;
            let mismatch = || {
                let types = [one.as_ref(), many.as_ref()].map(|value| value.get_type().name().to_owned());
                ExecutionError::no_such_overload("in", types.to_vec())
            };
            let found = many.as_container().ok_or_else(mismatch)?.contains(one.as_ref())?;
            Ok(CowVal::owned(CelBool::from(found)))
        });
        let counted = meter.clone();
        let at: Counting = Box::new(move |call| {
            let (Some(key), Some(many)) = (call.args.pop(), call.args.pop()) else {
                return Err(wrong(AT));
            };
            counted.text(key.as_ref())?;
            let is_key = key.as_sizer().is_none() || key.downcast_ref::<CelString>().is_some();
            let is_number =
                key.downcast_ref::<CelString>().is_none() && key.downcast_ref::<CelBool>().is_none();
            let fits = match (many.downcast_ref::<CelMap>(), many.downcast_ref::<CelList>()) {
                (Some(_), _) => is_key,
                (None, Some(_)) => is_key && is_number,
                (None, None) => false,
            };
            if !fits {
                let types = [many.as_ref(), key.as_ref()].map(|value| value.get_type().name().to_owned());
                return Err(ExecutionError::no_such_overload("[]", types.to_vec()));
            }
            match many {
                CowVal::Borrowed(many) => many.as_indexer().ok_or_else(|| wrong(AT))?.get(key.as_ref()),
                CowVal::Owned(many) => {
                    let found = many.into_indexer().ok_or_else(|| wrong(AT))?.steal(key.as_ref())?;
                    Ok(CowVal::Owned(found))
                }
            }
        });
        for (name, function) in [(WHOLE, whole), (TEXT, text), (LOOP, each), (MEMBER, member), (AT, at)] {
            context.add_function(name, function).map_err(|error| error.to_string())?;
        }
        let least: Counting = Box::new(|call| extreme(call, std::cmp::Ordering::Less));
        let most: Counting = Box::new(|call| extreme(call, std::cmp::Ordering::Greater));
        for (name, function) in [("min", least), ("max", most)] {
            context.add_function(name, function).map_err(|error| error.to_string())?;
        }
        Ok(Self { context, meter })
    }
}

impl Scope {
    /// Sets a variable.
    pub(super) fn set(&mut self, name: &str, value: &serde_json::Value) {
        self.context.add_variable_from_value(name, value_of(value));
    }
}

/// Returns the least or greatest of whole numbers: of a list, or of several arguments; 0 of none.
fn extreme<'c, 'v>(
    call: &mut FunctionContext<'c, 'v>,
    wanted: std::cmp::Ordering,
) -> Result<CowVal<'c, 'v>, ExecutionError> {
    let number = |value: &dyn Val| match value.downcast_ref::<CelInt>() {
        Some(number) => Ok(*number.inner()),
        None => Err(ExecutionError::function_error("min and max", "expected whole numbers")),
    };
    let mut numbers = Vec::new();
    for arg in call.this.iter().chain(&call.args) {
        match arg.downcast_ref::<CelList>() {
            Some(list) => {
                for item in list.inner() {
                    numbers.push(number(item.as_ref())?);
                }
            }
            None => numbers.push(number(arg.as_ref())?),
        }
    }
    let found = match wanted {
        std::cmp::Ordering::Less => numbers.into_iter().min(),
        _ => numbers.into_iter().max(),
    };
    Ok(CowVal::owned(CelInt::from(found.unwrap_or_default())))
}

/// Returns JSON as the interpreter has it. Whole numbers are `int`, so that they can be reckoned with literals.
fn value_of(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(whole) => Value::Int(whole),
            None => Value::Float(number.as_f64().unwrap_or_default()),
        },
        serde_json::Value::String(text) => Value::String(Arc::new(text.clone())),
        serde_json::Value::Array(items) => Value::List(Arc::new(items.iter().map(value_of).collect())),
        serde_json::Value::Object(entries) => {
            let entry = |(key, value): (&String, &serde_json::Value)| {
                (Key::String(Arc::new(key.clone())), value_of(value))
            };
            Value::Map(Map { map: Arc::new(entries.iter().map(entry).collect::<HashMap<_, _>>()) })
        }
    }
}
