//! GRUB's menu, as far as the names of roots concern it: `grub-mkconfig` writes the name that the running root has at that moment
//! into each entry, and after an exchange of names such an entry boots the wrong tree.

/// Where Debian and Ubuntu have the menu.
pub const MENU: &str = "boot/grub/grub.cfg";

/// The number (from 1) of the first line of a menu that mentions a subvolume.
#[must_use]
pub fn line_with(menu: &[u8], name: &str) -> Option<usize> {
    let mentions = |line: &[u8]| line.windows(name.len()).any(|part| part == name.as_bytes());
    menu.split(|byte| *byte == b'\n').position(mentions).map(|index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MENU_TEXT: &[u8] = include_bytes!("../../tests/fixtures/snapshot/grub.cfg");

    #[test]
    fn a_menu_that_was_written_while_armed_is_told() {
        assert_eq!(line_with(MENU_TEXT, "@safe-upgrade-r1-root"), Some(9));
        assert_eq!(line_with(MENU_TEXT, "@safe-upgrade-r2-root"), None);
        assert_eq!(line_with(b"", "@x"), None);
    }
}
