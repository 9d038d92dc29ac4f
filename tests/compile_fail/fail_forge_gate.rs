use safe_upgrade::evidence::{Gate, RunId};

fn main() {
    let run: RunId = "20261126T163000Z-4f2a".parse().unwrap();
    let _ = Gate { run };
}
