fn main() {
    fn needs_clone<T: Clone>() {}
    needs_clone::<safe_upgrade::evidence::Gate>();
}
