//! Tables of expressions: what they give, what they cost, what is wrong with them.

use super::*;
use crate::types::{Field, ListKind, Object, Shape};
use serde_json::{Value, json};
use std::sync::Arc;

fn schema(shape: Shape, max: u64) -> Schema {
    Schema { shape, max_elements: max, min_bytes: 2 }
}

fn list(of: Schema, kind: ListKind) -> Schema {
    schema(Shape::List(Arc::new(of), kind), 100)
}

fn object(fields: &[(&str, Schema)]) -> Schema {
    let fields = fields.iter().map(|(name, s)| {
        let escaped = types::escape(name).unwrap();
        (escaped.into(), Field { json: (*name).into(), schema: s.clone() })
    });
    Schema::of(Shape::Object(Arc::new(Object { name: "object".into(), fields: fields.collect() })))
}

fn env() -> Env {
    let text = || schema(Shape::String, 100);
    let int = || Schema::of(Shape::Int);
    let item = object(&[("name", text()), ("port", int())]);
    Env::default().with(
        "self",
        object(&[
            ("name", text()),
            ("replicas", int()),
            ("min-replicas", int()),
            ("ratio", Schema::of(Shape::Double)),
            ("enabled", Schema::of(Shape::Bool)),
            ("when", Schema::of(Shape::Timestamp)),
            ("wait", Schema::of(Shape::Duration)),
            ("data", schema(Shape::Bytes, 100)),
            ("any", Schema::of(Shape::Any)),
            ("tags", list(text(), ListKind::Set)),
            ("numbers", list(int(), ListKind::Atomic)),
            ("items", list(item, ListKind::Map(vec!["name".into()]))),
            ("labels", schema(Shape::Map(Arc::new(text())), 50)),
            ("namespace", text()),
        ]),
    )
}

fn data() -> Value {
    json!({
        "name": "web", "replicas": 3, "min-replicas": 2, "ratio": 0.5, "enabled": true,
        "when": "2026-01-02T03:04:05Z", "wait": "90s", "data": "aGVsbG8=", "any": 5,
        "tags": ["a", "b"], "numbers": [3, 1, 2], "labels": {"app": "x", "tier": "db"},
        "items": [{"name": "http", "port": 80}, {"name": "https", "port": 443}],
        "namespace": "ns",
    })
}

fn run(source: &str) -> (Result<Value, EvalError>, u64) {
    let env = env();
    let program = Program::compile(&env, source)
        .unwrap_or_else(|f| panic!("{source}\n{}", render(&f, source)));
    let data = data();
    let bindings = Bindings::default().with("self", Val::of(&data, env.variable("self").unwrap()));
    let (result, cost) = program.eval(&bindings, 1_000_000);
    (result.map(|v| v.to_json()), cost)
}

#[test]
fn values() {
    for (source, want) in [
        ("1 + 2 * 3 - 4 / 2 % 3", json!(5)),
        ("-5 % 3 == -2 && 7 / -2 == -3", json!(true)),
        ("'a' + \"b\" + r'\\n' + '''c'''", json!("ab\\nc")),
        ("b'abc' == bytes('abc')", json!(true)),
        ("1 < 1.5 && 2u > 1 && 1u <= 1.0", json!(true)),
        ("self.replicas >= self.min__dash__replicas", json!(true)),
        ("self.__namespace__ == 'ns' && self.namespace == 'ns'", json!(true)),
        ("has(self.name) && !has(self.labels.none)", json!(true)),
        ("self.items.all(i, i.port > 0 && i.port < 65536)", json!(true)),
        ("self.items.exists(i, i.name == 'http')", json!(true)),
        ("self.items.exists_one(i, i.name.startsWith('http'))", json!(false)),
        ("self.items.map(i, i.port)", json!([80, 443])),
        ("self.items.map(i, i.port > 100, i.name)", json!(["https"])),
        ("self.items.filter(i, i.port > 100).size()", json!(1)),
        ("self.labels.all(k, k.size() > 2)", json!(true)),
        ("self.labels.transformMap(k, v, k + v)", json!({"app": "appx", "tier": "tierdb"})),
        ("self.numbers.transformList(i, v, v > 1, i * 10 + v)", json!([3, 22])),
        ("self.labels.transformMapEntry(k, v, {v: k})", json!({"x": "app", "db": "tier"})),
        ("self.tags == ['b', 'a'] && self.numbers != [1, 2, 3]", json!(true)),
        ("self.tags + ['b', 'c']", json!(["a", "b", "c"])),
        ("(self.items + self.items.filter(i, i.port > 100)).size()", json!(2)),
        ("'b' in self.tags && !('z' in self.labels) && 3 in [1, 2, 3]", json!(true)),
        ("[1, 2, 3].sum() + [3, 1].min() + [3, 1].max()", json!(10)),
        ("self.numbers.isSorted() || self.numbers.sort().isSorted()", json!(true)),
        ("self.items.sortBy(i, -i.port)[0].name", json!("https")),
        ("[[1], [2, 3]].flatten().reverse()", json!([3, 2, 1])),
        ("[1, 1, 2].distinct().slice(0, 1) == [1] && lists.range(3) == [0, 1, 2]", json!(true)),
        ("'a,b,c'.split(',').join('-').upperAscii()", json!("A-B-C")),
        ("'hello'.substring(1, 3) + 'x'.charAt(0) + ' y '.trim()", json!("elxy")),
        ("'hello'.indexOf('l') * 10 + 'hello'.lastIndexOf('l')", json!(23)),
        ("'abc'.replace('b', 'x').matches('^a.c$')", json!(true)),
        ("'a1b22'.findAll('[0-9]+')", json!(["1", "22"])),
        ("'%s has %d of %.2f %x'.format([self.name, 3, 1.5, 255])", json!("web has 3 of 1.50 ff")),
        (
            "self.when.getFullYear() + self.when.getMonth() + self.when.getHours('+02:00')",
            json!(2031),
        ),
        ("self.wait > duration('1m') && self.wait.getSeconds() == 90", json!(true)),
        ("timestamp('2026-01-02T03:04:05Z') == self.when", json!(true)),
        ("string(self.when + duration('1h'))", json!("2026-01-02T04:04:05Z")),
        ("type(self.replicas) == int && type('a') == string", json!(true)),
        ("self.any == 5 && dyn(1) == dyn(1.0)", json!(true)),
        ("int('42') + int(3.9) + int(uint(7))", json!(52)),
        ("string(1.0) + string(true) + string(2u)", json!("1true2")),
        ("self.?labels[?'app'].orValue('none') + self.labels[?'no'].orValue('-')", json!("x-")),
        ("optional.of(1).optMap(x, x + 1).value()", json!(2)),
        ("optional.none().hasValue() ? 1 : [?optional.of(2), ?optional.none()][0]", json!(2)),
        ("url('https://user@example.com:80/p%20a?q=1&q=2').getHost()", json!("example.com:80")),
        ("url('https://example.com:80/p?q=1&q=2').getQuery()['q']", json!(["1", "2"])),
        ("isURL('/abs/path') && !isURL('../rel')", json!(true)),
        ("ip('10.0.0.1').family() == 4 && ip('::1').isLoopback()", json!(true)),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3') && !isIP('10.0.0.999')", json!(true)),
        ("cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8')", json!(true)),
        (
            "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && cidr('::/0').prefixLength() == 0",
            json!(true),
        ),
        (
            "quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('1.5').add(1).compareTo(quantity('2500m')) == 0",
            json!(true),
        ),
        (
            "semver('1.2.3-rc.1').isLessThan(semver('1.2.3')) && isSemver('v1.2', true) && !isSemver('v1.2')",
            json!(true),
        ),
        ("!format.dns1123Label().validate('a-b').hasValue()", json!(true)),
        (
            "format.named('uuid').value().validate('x').value()[0]",
            json!("does not match the UUID format"),
        ),
        (
            "sets.contains([1, 2, 3], [2]) && sets.equivalent([1, 2], [2, 1]) && sets.intersects([1], [1, 2])",
            json!(true),
        ),
        // An error is forgotten if another operand decides.
        ("true || [1][5] == 1", json!(true)),
        ("[1, 0, 2].exists(x, 10 / x == 5)", json!(true)),
        ("true ? 1 : 2", json!(1)),
    ] {
        assert_eq!(run(source).0, Ok(want), "{source}");
    }
}

#[test]
fn errors_at_run_time() {
    for (source, want) in [
        ("self.labels['none'] == 'x'", "no such key: none"),
        ("[1, 2][2] == 1", "index out of bounds: 2"),
        ("1 / (self.replicas - 3) > 0", "division by zero"),
        ("1 % (self.replicas - 3) > 0", "modulus by zero"),
        ("9223372036854775807 + self.replicas > 0", "integer overflow"),
        (
            "sign(quantity('x')) > 0",
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        ("optional.none().value() == 1", "optional.none() dereference"),
        ("[1, 0].all(x, 1 / x == 1)", "division by zero"),
        ("[].min() > 1", "min called on empty list"),
    ] {
        assert_eq!(run(source).0.unwrap_err().to_string(), want, "{source}");
    }
}

#[test]
fn costs_at_run_time() {
    for (source, want) in [
        ("true", 0),
        ("self.replicas > 1", 3),
        ("has(self.name)", 1),
        ("self.name == 'web'", 3),
        ("self.numbers.all(x, x > 0)", 2 + 3 * 5 + 1),
        ("self.name.matches('abc')", 2 + 1),
        ("size(self.tags) == 2", 4),
    ] {
        assert_eq!(run(source).1, want, "{source}");
    }
    let env = env();
    let program = Program::compile(&env, "self.numbers.all(x, x > 0)").unwrap();
    let data = data();
    let bindings = Bindings::default().with("self", Val::of(&data, env.variable("self").unwrap()));
    assert_eq!(program.eval(&bindings, 5).0.unwrap_err(), EvalError::CostLimit);
}

#[test]
fn worst_costs() {
    for (source, want) in [
        ("self.replicas > 1", 3),
        ("self.replicas == 1", 2),
        ("self.name == 'abcdefghijk'", 2 + 2),
        ("self.tags.all(t, t.startsWith('a'))", 2 + 100 * (1 + 1 + 1 + 1 + 1) + 1),
        ("self.name + self.name == 'x'", 4 + 20 + 1),
        ("[1, 2, 3]", 10),
    ] {
        let program = Program::compile(&env(), source).unwrap();
        assert_eq!(program.worst_cost(), want, "{source}");
    }
}

#[test]
fn faults() {
    for (source, want) in [
        (
            "self.nope == 1",
            "ERROR: <input>:1:5: undefined field 'nope'\n | self.nope == 1\n | ....^",
        ),
        (
            "x > 1",
            "ERROR: <input>:1:1: undeclared reference to 'x' (in container '')\n | x > 1\n | ^",
        ),
        (
            "self.name > 1",
            "ERROR: <input>:1:11: found no matching overload for '_>_' applied to '(string, int)'\n | self.name > 1\n | ..........^",
        ),
        (
            "self.name.size(1)",
            "ERROR: <input>:1:15: found no matching overload for 'size' applied to 'string.(int)'\n | self.name.size(1)\n | ..............^",
        ),
        (
            "self.replicas.x",
            "ERROR: <input>:1:14: type 'int' does not support field selection\n | self.replicas.x\n | .............^",
        ),
        (
            "self.replicas.all(x, true)",
            "ERROR: <input>:1:5: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)\n | self.replicas.all(x, true)\n | ....^",
        ),
        (
            "[1, 'a']",
            "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^",
        ),
        (
            "true && 1",
            "ERROR: <input>:1:9: expected type 'bool' but found 'int'\n | true && 1\n | ........^",
        ),
        (
            "nope(1)",
            "ERROR: <input>:1:5: undeclared reference to 'nope' (in container '')\n | nope(1)\n | ....^",
        ),
        (
            "self.name ==",
            "ERROR: <input>:1:13: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | self.name ==\n | ............^",
        ),
        (
            "namespace == 1",
            "ERROR: <input>:1:1: reserved identifier: namespace\n | namespace == 1\n | ^",
        ),
        (
            "1 2",
            "ERROR: <input>:1:3: Syntax error: extraneous input '2' expecting <EOF>\n | 1 2\n | ..^",
        ),
        (
            "self.name == null",
            "ERROR: <input>:1:11: found no matching overload for '_==_' applied to '(string, null)'\n | self.name == null\n | ..........^",
        ),
    ] {
        let faults = Program::compile(&env(), source).unwrap_err();
        assert_eq!(render(&faults, source), want, "{source}");
    }
}

/// Where absence means zero, as in Go's structs.
#[test]
fn zero_values() {
    let env = env().with_zero_values();
    let data = json!({});
    let source =
        "self.name == '' && self.replicas == 0 && self.items.size() == 0 && !has(self.name)";
    let program = Program::compile(&env, source).unwrap();
    let bindings = Bindings::default().with("self", Val::of(&data, env.variable("self").unwrap()));
    assert_eq!(program.eval(&bindings, 1000).0.map(|v| v.to_json()), Ok(json!(true)));
}

/// Deep and long expressions are refused, or evaluated, on a thread's usual stack.
#[test]
fn nesting_is_bounded() {
    let deep = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
    assert!(Program::compile(&env(), &deep(90)).is_ok());
    assert!(Program::compile(&env(), &deep(300)).is_err());
    assert!(Program::compile(&env(), &vec!["1"; 1000].join("+")).is_err());
    let long = vec!["self.enabled"; 2000].join(" && ");
    assert_eq!(run(&long).0, Ok(json!(true)));
    let chain = vec!["1"; 95].join("+");
    assert_eq!(run(&chain).0, Ok(json!(95)));
}

proptest::proptest! {
    #[test]
    fn no_text_panics(source in "[-a-z0-9 .,(){}\\[\\]+*/%<>=!&|?:'\"_\\\\]{0,60}") {
        if let Ok(program) = Program::compile(&env(), &source) {
            let (env, data) = (env(), data());
            let self_ = Val::of(&data, env.variable("self").unwrap());
            let bindings = Bindings::default().with("self", self_);
            let _ = program.eval(&bindings, 10_000);
        }
    }
}
