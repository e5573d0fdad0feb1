"""What a loss of power leaves of a simulated file system.

Not here: which names are durable (names) and which contents (inodes).

1. What was flushed is there, whole and unchanged.
2. Content not flushed may be there or not, page by page: a page has its old or its new content,
   and one that had none before may be zeros. The size may be the old one, the new one or the
   smallest between.
3. The same tree and seed give the same result.
"""

from collections import deque
from collections.abc import Callable
from random import Random

from holdfast.model.tree import FileKind
from holdfast.testing.inodes import PAGE_BYTES, Attributes, Image, Inode
from holdfast.testing.names import DurableNames, NameChange, NameJournal

Recovery = Callable[[Inode], Image]
"""Chooses what an inode is read back as."""


def flushed_only(inode: Inode) -> Image:
    """Recover nothing but what was flushed."""
    return inode.image


def emptied(inode: Inode) -> Image:
    """Recover new metadata and old content: the zero-length file after an unflushed rename."""
    image = inode.image.copy()
    image.attributes = inode.now.attributes
    return image


def zero_filled(inode: Inode) -> Image:
    """Recover new metadata and size, zeros for content not flushed: right size, right mtime."""
    unflushed = inode.dirty | inode.in_doubt
    pages = {page: data for page, data in inode.image.pages.items() if page not in unflushed}
    image = Image(attributes=inode.now.attributes, size_bytes=inode.now.size_bytes, pages=pages)
    return _trimmed(image)


def random_recovery(random: Random) -> Recovery:
    """Return a recovery that draws a fate for every inode and every page not flushed."""

    def recover(inode: Inode) -> Image:
        if random.random() < 0.2:
            return inode.image
        old, new = inode.image, inode.now
        pages = dict(old.pages)
        for page in sorted(inode.dirty | inode.in_doubt):
            data = random.choice((old.pages.get(page), new.pages.get(page), new.pages.get(page)))
            pages.pop(page, None)
            if data is not None:
                pages[page] = data
        attributes: Attributes = random.choice((old.attributes, new.attributes))
        sizes = (old.size_bytes, new.size_bytes, new.size_bytes, inode.size_floor_bytes)
        return _trimmed(Image(attributes=attributes, size_bytes=random.choice(sizes), pages=pages))

    return recover


def recover_tree(root: Inode, names: DurableNames, recover: Recovery) -> tuple[Inode, NameJournal]:
    """Return the root and the journal of the file system as found when power is back."""
    found: dict[int, Inode] = {root.number: _recovered(root, recover)}
    new_root = found[root.number]
    journal = NameJournal(new_root)
    waiting = deque([new_root])
    while waiting:
        directory = waiting.popleft()
        for name, old in names.entries[directory.number].items():
            inode = found.get(old.number)
            if inode is None:
                inode = found[old.number] = _recovered(old, recover)
                if inode.kind is FileKind.DIRECTORY:
                    inode.parent = directory
                    waiting.append(inode)
            directory.names[name] = inode
            inode.links_count += 1
            journal.record(NameChange(directory, name, inode))
    journal.flush_all()
    return new_root, journal


def _recovered(old: Inode, recover: Recovery) -> Inode:
    image = recover(old).copy()
    return Inode(
        number=old.number,
        kind=old.kind,
        now=image.copy(),
        image=image,
        target=old.target,
        size_floor_bytes=image.size_bytes,
    )


def _trimmed(image: Image) -> Image:
    """Drop what lies past the end of the file, so that growing it again shows zeros."""
    last, used = divmod(image.size_bytes, PAGE_BYTES)
    for page in [page for page in image.pages if page > last or (page == last and not used)]:
        del image.pages[page]
    if last in image.pages:
        image.pages[last] = image.pages[last][:used] + bytes(PAGE_BYTES - used)
    return image
