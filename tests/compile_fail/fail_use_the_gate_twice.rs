use safe_upgrade::driver::Host;
use safe_upgrade::evidence::{Gate, Plan};

fn twice(host: &mut dyn Host, plan: &Plan, gate: Gate) {
    let _ = host.upgrade(plan, gate);
    let _ = host.upgrade(plan, gate);
}

fn main() {
    let _ = twice;
}
