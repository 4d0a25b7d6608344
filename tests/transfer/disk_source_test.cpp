// Images are made by qemu-img, so that what its writers do is what is accepted.
#include "transfer/disk_source.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>

#include "base/child_process.h"
#include "base/error.h"
#include "base/whole_file.h"
#include "support/bytes.h"
#include "support/error_kind.h"

using namespace isr;

namespace {

void run(const std::string& program, const std::vector<std::string>& arguments) {
  ChildProcess child;
  ChildOptions how;
  how.program = program;
  how.arguments = arguments;
  how.directory = "/";
  child.start(std::move(how));
  const auto status = child.wait_exit({std::chrono::minutes(2), {}});
  INFO(program << ": " << child.output());
  REQUIRE(status == 0);
}

/// A way to make an image: `qemu-img convert -O FORMAT OPTIONS`.
struct Kind {
  std::string format;
  std::vector<std::string> options;
};

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all{
      {"qcow2", {}},
      {"qcow2", {"-c"}},
      {"qcow2", {"-c", "-o", "compression_type=zstd"}},
      {"qcow2", {"-o", "compat=0.10,cluster_size=512"}},
      {"qcow2", {"-o", "extended_l2=on,cluster_size=128k"}},
      {"qcow2", {"-o", "preallocation=metadata"}},
      {"qcow2", {"-o", "preallocation=full,cluster_size=2M"}},
      {"vmdk", {}},
      {"vmdk", {"-o", "subformat=streamOptimized"}},
      {"vdi", {}},
      {"vdi", {"-o", "static=on"}},
      {"vhdx", {}},
      {"vhdx", {"-o", "subformat=fixed,block_size=1M"}},
  };
  return all;
}

/// Islands of data in an empty disk, one of them at its very end.
Bytes disk_of_islands(std::uint64_t seed, std::size_t size) {
  std::mt19937_64 random(seed);
  Bytes disk(size);
  for (int i = 0; i < 12; ++i) {
    const Bytes island = test::random_bytes(512 + random() % 100'000, random());
    const std::size_t at = i == 0 ? size - island.size() : random() % (size - island.size());
    std::copy(island.begin(), island.end(), disk.begin() + static_cast<std::ptrdiff_t>(at));
  }
  return disk;
}

Bytes read_all(DiskSource& source) {
  Bytes disk(source.size());
  for (std::uint64_t at = source.next_data(0); at < disk.size(); at = source.next_data(at)) {
    const std::size_t n = std::min<std::uint64_t>(disk.size() - at, 1U << 17U);
    source.read(at, MutableBytes(disk).subspan(at, n));
    at += n;
  }
  source.check_unchanged();
  return disk;
}

struct Place {
  TempDirectory directory;
  fs::path raw = directory.path() / "disk.raw";
  fs::path image = directory.path() / "disk.image";
  fs::path other = directory.path() / "other";

  void make(const Kind& kind, const Bytes& disk) {
    replace_file(raw, disk);
    fs::remove(image);
    std::vector<std::string> arguments{"convert", "-f", "raw", "-O", kind.format};
    arguments.insert(arguments.end(), kind.options.begin(), kind.options.end());
    arguments.insert(arguments.end(), {raw.string(), image.string()});
    run("qemu-img", arguments);
  }
  /// Pieces written one after the other in any order, as a guest does; then what QEMU reads of them.
  Bytes grow(const Kind& kind, std::uint64_t size, std::uint64_t seed) {
    fs::remove(image);
    std::vector<std::string> create{"create", "-q", "-f", kind.format};
    create.insert(create.end(), kind.options.begin(), kind.options.end());
    create.insert(create.end(), {image.string(), std::to_string(size)});
    run("qemu-img", create);
    std::mt19937_64 random(seed);
    std::vector<std::string> writes{"-f", kind.format};
    for (int i = 0; i < 25; ++i) {
      const std::uint64_t sectors = 1 + random() % 60;
      const std::uint64_t at = random() % (size / 512 - sectors);
      writes.insert(writes.end(), {"-c", fmt::format("write -P {} {} {}", 1 + i, at * 512, sectors * 512)});
    }
    writes.push_back(image.string());
    run("qemu-io", writes);
    run("qemu-img", {"convert", "-f", kind.format, "-O", "raw", image.string(), raw.string()});
    return read_file(raw, size);
  }
};

std::string name_of(const Kind& kind) {
  std::string name = kind.format;
  for (const std::string& option : kind.options) name += " " + option;
  return name;
}

/// Lengths of a file that was cut, longest first: anywhere, at sectors, within the last sectors, near the tables.
std::vector<std::uint64_t> cuts(std::uint64_t size, std::uint64_t seed, int count) {
  std::mt19937_64 random(seed);
  std::vector<std::uint64_t> lengths{size - 1, size - 512};
  for (int i = 0; i < count; ++i) {
    const std::uint64_t anywhere = 1 + random() % (size - 1);
    const std::uint64_t lengths_by_turn[] = {anywhere, anywhere / 512 * 512 + 512, size - 1 - random() % 2048,
                                             anywhere % 300'000 + 1};
    lengths.push_back(std::min(size - 1, lengths_by_turn[i % 4]));
  }
  std::sort(lengths.rbegin(), lengths.rend());
  return lengths;
}

/// Returns how many of the cuts were refused.
int expect_refused_or_whole(Place& place, const Kind& kind, const Bytes& disk, std::uint64_t seed) {
  const std::uint64_t size = fs::file_size(place.image);
  int refused = 0;
  for (const std::uint64_t length : cuts(size, seed, 40)) {
    INFO(name_of(kind) << ", " << length << " of " << size << " bytes");
    fs::resize_file(place.image, length);
    try {
      const auto source = open_disk_source(place.image, {.format = kind.format});
      CHECK((read_all(*source) == disk));
    } catch (const Error& error) {
      INFO(error.what());
      CHECK(error.kind() == ErrorKind::kUnsupported);
      CHECK(std::string(error.what()).find("bytes are missing") != std::string::npos);
      ++refused;
    }
  }
  return refused;
}

}  // namespace

TEST_CASE("a whole image gives the disk from which it was made", "[transfer]") {
  Place place;
  for (const std::size_t size : {std::size_t{9} << 20U, (std::size_t{5} << 20U) + 512 * 3}) {
    const Bytes disk = disk_of_islands(size, size);
    for (const Kind& kind : kinds()) {
      INFO(name_of(kind) << ", " << size << " bytes");
      place.make(kind, disk);
      const auto source = open_disk_source(place.image);
      CHECK(source->missing_bytes() == 0);
      CHECK((read_all(*source) == disk));
    }
  }
}

TEST_CASE("an image that was cut off anywhere is refused with the missing length, or gives its whole disk",
          "[transfer]") {
  Place place;
  const Bytes disk = disk_of_islands(/*seed=*/9, (std::size_t{9} << 20U) + 512 * 7);
  for (const Kind& kind : kinds()) {
    place.make(kind, disk);
    CHECK(expect_refused_or_whole(place, kind, disk, /*seed=*/21) > 20);
  }
}

TEST_CASE("an image that grew by scattered writes is read whole, and refused when it was cut off anywhere",
          "[transfer]") {
  Place place;
  const std::uint64_t size = (64U << 20U) + 512 * 5;
  for (const Kind& kind : {Kind{"qcow2", {"-o", "cluster_size=4k"}}, Kind{"qcow2", {"-o", "extended_l2=on"}},
                           Kind{"vmdk", {}}, Kind{"vdi", {}}, Kind{"vhdx", {"-o", "block_size=1M"}}}) {
    INFO(name_of(kind));
    const Bytes disk = place.grow(kind, size, /*seed=*/5);
    CHECK((read_all(*open_disk_source(place.image)) == disk));
    CHECK(expect_refused_or_whole(place, kind, disk, /*seed=*/6) > 20);
  }
}

TEST_CASE("with salvage a cut image gives its readable parts and the length that is missing", "[transfer]") {
  Place place;
  const Bytes disk = disk_of_islands(/*seed=*/10, std::size_t{9} << 20U);
  std::size_t lost_of_all = 0;
  for (const Kind& kind : kinds()) {
    INFO(name_of(kind));
    place.make(kind, disk);
    const std::uint64_t size = fs::file_size(place.image);
    fs::resize_file(place.image, size / 5 * 4);
    const auto source = open_disk_source(place.image, {.format = kind.format, .salvage = true});
    CHECK(source->missing_bytes() > 0);
    CHECK(source->missing_bytes() <= size - size / 5 * 4);
    const Bytes got = read_all(*source);
    REQUIRE(got.size() == disk.size());
    // The half of a compressed cluster unpacks to anything: it has no checksum.
    const bool is_compressed_qcow2 = kind.format == "qcow2" && kind.options.size() > 0 && kind.options[0] == "-c";
    std::size_t lost = 0;
    for (std::size_t i = 0; i < disk.size(); ++i) {
      if (got[i] == disk[i]) continue;
      ++lost;
      if (!is_compressed_qcow2) REQUIRE(got[i] == 0);
    }
    lost_of_all += lost;
    CHECK(lost < disk.size() - std::count(disk.begin(), disk.end(), 0));
  }
  CHECK(lost_of_all > 0);  // a VHDX lacks only what is behind the end of its disk
}

TEST_CASE("a raw disk of any length is read whole, with zeros after its end", "[transfer]") {
  Place place;
  const Bytes disk = test::random_bytes(3 * 512 - 100, 4);
  replace_file(place.raw, disk);
  const auto source = open_disk_source(place.raw);
  CHECK(source->missing_bytes() == 0);
  CHECK((read_all(*source) == disk));
  Bytes beyond(200, 0xff);
  source->read(disk.size() - 100, beyond);
  CHECK(std::equal(disk.end() - 100, disk.end(), beyond.begin()));
  CHECK(is_zero(ByteView(beyond).subspan(100)));
}

TEST_CASE("a source that shrinks or changes while it is read is an error, never zeros", "[transfer]") {
  Place place;
  const Bytes disk = disk_of_islands(/*seed=*/11, std::size_t{1} << 20U);
  place.make({"qcow2", {}}, disk);
  SECTION("a raw file that is truncated where there was data") {
    const auto source = open_disk_source(place.raw);
    fs::resize_file(place.raw, 4096);
    CHECK(test::kind_thrown([&] { source->next_data(512 << 10U); }) == ErrorKind::kIo);
    Bytes sector(512);
    CHECK(test::kind_thrown([&] { source->read(512 << 10U, sector); }) == ErrorKind::kIo);
  }
  SECTION("a file of the same length, written to") {
    const fs::path file = place.directory.path() / GENERATE("disk.raw", "disk.image");
    const auto source = open_disk_source(file);
    source->check_unchanged();
    const UniqueFd fd = open_file(file, O_WRONLY);
    write_all_at(fd.get(), Bytes(1), fs::file_size(file) - 1, file);
    CHECK(test::kind_thrown([&] { source->check_unchanged(); }) == ErrorKind::kIo);
  }
  SECTION("another file of its name") {
    const auto source = open_disk_source(place.image);
    fs::copy_file(place.image, place.other);
    fs::rename(place.other, place.image);
    CHECK(test::kind_thrown([&] { source->check_unchanged(); }) == ErrorKind::kIo);
  }
}

TEST_CASE("a container that isr does not read is refused with a helpful command, unless raw is requested",
          "[transfer]") {
  Place place;
  const Bytes disk = disk_of_islands(/*seed=*/12, std::size_t{4} << 20U);
  const auto expect_refused = [](const fs::path& file, const std::string& hint) {
    INFO(file);
    try {
      open_disk_source(file);
      FAIL_CHECK("it became a raw disk");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::kUnsupported);
      REQUIRE_FALSE(error.hints().empty());
      CHECK(error.hints()[0].find(hint) != std::string::npos);
    }
  };
  for (const Kind& kind : {Kind{"vpc", {}}, Kind{"vpc", {"-o", "subformat=fixed,force_size=on"}}, Kind{"qed", {}},
                           Kind{"parallels", {}}, Kind{"qcow", {}}}) {
    place.make(kind, disk);
    expect_refused(place.image, "-f " + kind.format);
    CHECK(open_disk_source(place.image, {.format = "raw"})->size() == fs::file_size(place.image));
  }
  place.make({"qcow2", {}}, disk);
  run("tar", {"cf", place.other.string(), "-C", place.directory.path().string(), "disk.image"});
  expect_refused(place.other, "tar xf");
  for (const char* program : {"gzip", "xz", "bzip2"}) {
    run(program, {"--keep", "--force", place.image.string()});
    const std::string suffix = program == std::string("bzip2") ? "bz2" : program == std::string("gzip") ? "gz" : "xz";
    expect_refused(place.image.string() + "." + suffix, program);
  }
}
