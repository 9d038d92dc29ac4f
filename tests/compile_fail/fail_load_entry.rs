use safe_upgrade::machine::Entry;

fn main() {
    let _: Entry = serde_json::from_str("{\"record\":\"Refused\"}").unwrap();
}
