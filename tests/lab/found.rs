//! What `check --json` has found.

use serde_json::Value;

/// Severity, id, and the words that the finding must say.
pub type Expected = (&'static str, &'static str, &'static [&'static str]);

/// All that the findings of an id say, to search in.
pub fn words(report: &Value, id: &str) -> String {
    of_id(report, id).map(Value::to_string).collect::<Vec<_>>().join("\n")
}

/// Panics with the whole report unless each of these was found, with its severity and its words.
pub fn assert_named(report: &Value, expected: &[Expected]) {
    let wrong = not_named(report, expected);
    assert!(wrong.is_empty(), "not named:\n{}\n{report:#}", wrong.join("\n"));
}

/// What was not found of these, with what was said instead.
pub fn not_named(report: &Value, expected: &[Expected]) -> Vec<String> {
    let wrong: Vec<String> = expected
        .iter()
        .filter(|(severity, id, named)| {
            let of_severity = of_id(report, id).any(|finding| finding["severity"] == *severity);
            let said = words(report, id);
            !of_severity || !named.iter().all(|word| said.contains(word))
        })
        .map(|(severity, id, named)| format!("{severity} {id} {named:?}: {}", words(report, id)))
        .collect();
    let (all, there) = (all(report).count(), expected.len() - wrong.len());
    eprintln!("lab: {all} findings, {there} of {} expected ones among them", expected.len());
    wrong
}

/// Severity and id of each.
pub fn pairs(report: &Value) -> Vec<(String, String)> {
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    all(report).map(|finding| (text(finding, "severity"), text(finding, "id"))).collect()
}

fn of_id<'r>(report: &'r Value, id: &str) -> impl Iterator<Item = &'r Value> {
    all(report).filter(move |finding| finding["id"] == id)
}

fn all(report: &Value) -> impl Iterator<Item = &Value> {
    report["findings"].as_array().into_iter().flatten().map(|one| &one["finding"])
}
