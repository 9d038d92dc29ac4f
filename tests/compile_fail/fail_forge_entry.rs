use safe_upgrade::machine::{Entry, Record};

fn main() {
    let _ = Entry(Record::Refused);
}
