"""Functions shared by the tests of odd input."""
import writing
from support import expect


def refuse(host, code, words, *command, **options):
    refused = host.run(*command, expect=code, **options)
    for word in words:
        expect(word.lower() in (refused.err + refused.out).lower(), f'nothing about "{word}": {refused}')
    return refused


def set_up(world, size=2 << 20):
    root = world.new_folder("repository")
    a = world.host("a")
    a.init_repository(root)
    image, content = writing.small_disk(world, writing.chance(), size=size)
    a.run("import", "work", image)
    return root, a, image, content


def parcels(host):
    return sorted(parcel["name"] for parcel in host.run("ls", json=True)["parcels"])
