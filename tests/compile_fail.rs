//! What must not compile: forging, cloning, storing or reusing a proof. The compiler's words are compared, so that a case fails
//! for the reason that it is about; `TRYBUILD=overwrite cargo test --test compile_fail` writes them anew.

#[test]
fn proofs_cannot_be_faked() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/compile_fail/pass_*.rs");
    cases.compile_fail("tests/compile_fail/fail_*.rs");
}
