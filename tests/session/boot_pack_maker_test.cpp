#include "session/boot_pack_maker.h"

#include <catch2/catch.hpp>

#include "session/packed_images.h"
#include "support/error_kind.h"
#include "support/session_parts.h"

using namespace isr;

namespace {

constexpr std::uint8_t kDisk = 0;
constexpr std::uint8_t kMemory = 1;

struct Place : test::CheckedOut {
  test::SessionParts parts{*this};
  BootPackMaker maker{account.identity, parts.objects};
  ParcelVersion version;

  Place() {
    for (const SessionImage& image : parts.state.now().images) version.images.push_back(image.image);
  }
  BootOrder order_of(const std::optional<SealedBootPack>& pack) const {
    return HotPages(parts.objects.reader(), pack.value().root, {}).head().order;
  }
};

}  // namespace

TEST_CASE("a boot pack has the pages of the order, or of the guest's own first reads when the order has none",
          "[session]") {
  Place place;
  const BootOrder own{{{kMemory, 9}}, {{kMemory, 1}, {kDisk, 0}}};
  SECTION("no pack when neither has a page") {
    CHECK_FALSE(place.maker.make({}, {}, kMaxBootPages, place.version).has_value());
  }
  SECTION("pages of the order, and the chunks of both") {
    const auto pack =
        place.maker.make({{{kMemory, 3}, {kMemory, 4}}, {{kMemory, 1}}}, own, kMaxBootPages, place.version);
    CHECK(place.order_of(pack).pages == std::vector<BootPlace>{{kMemory, 3}, {kMemory, 4}});
    CHECK(place.order_of(pack).chunks == std::vector<BootPlace>{{kMemory, 1}, {kDisk, 0}});
    CHECK(place.parts.objects.settled().contains(pack->objects.begin()->first));
  }
  SECTION("no more pages than the limit") {
    const auto pack = place.maker.make({{{kMemory, 3}, {kMemory, 4}}, {}}, own, 1, place.version);
    CHECK(place.order_of(pack).pages == std::vector<BootPlace>{{kMemory, 3}});
  }
  SECTION("pages of the guest's own first reads") {
    const auto pack = place.maker.make({}, own, kMaxBootPages, place.version);
    CHECK(place.order_of(pack).pages == own.pages);
  }
}

TEST_CASE("making a boot pack fails as a bug when its order names an image that the version does not have",
          "[session]") {
  Place place;
  const BootPlace beyond{kMemory + 1, 0};
  BootOrder order{{{kDisk, 0}}, {}};
  SECTION("as a page") { order.pages.push_back(beyond); }
  SECTION("as a chunk") { order.chunks.push_back(beyond); }
  SECTION("as memory, when the version has none") {
    order.pages.push_back({kMemory, 3});
    std::erase_if(place.version.images, [](const VersionImage& image) { return image.role == ImageRole::kMemory; });
  }
  CHECK((test::kind_thrown([&] { place.maker.make(order, {}, kMaxBootPages, place.version); }) == ErrorKind::kBug));
}

TEST_CASE("a session and the suspended version that it publishes have the same list of packed images", "[session]") {
  const Place place;
  const std::vector<std::string> names = packed_image_names(place.version);
  CHECK(names == std::vector<std::string>{"disk", "memory"});
  CHECK(packed_image_names(place.parts.state.now()) == names);
}

TEST_CASE("a boot pack leaves out pages that are not on this host", "[session]") {
  test::CheckedOut place;
  fs::remove_all(place.account.host.paths.cache);
  test::SessionParts parts(place);
  parts.memory.begin(true)->write(0, test::random_bytes(kChunkSize, 2));
  parts.memory.begin_run(true);
  parts.memory.keep({test::some_stamp(), test::random_bytes(5000, 3), {}});
  parts.memory.abandon();
  PublishOptions options;
  options.memory = true;
  parts.publisher.publish(options, {});  // now memory is in the cache, and the disk is only in the repository
  BootPackMaker maker(place.account.identity, parts.objects);
  const auto pack = maker.make({{{kDisk, 0}, {kMemory, 3}}, {}}, {}, kMaxBootPages, parts.state.now().base_version);
  CHECK(HotPages(parts.objects.reader(), pack.value().root, {}).head().order.pages ==
        std::vector<BootPlace>{{kMemory, 3}});
}

TEST_CASE("a boot pack shares the chunks of the published one when most of their pages are wanted and unchanged",
          "[session]") {
  test::CheckedOut place;
  test::SessionParts parts(place);
  PublishOptions options;
  options.memory = true;
  const auto suspend = [&](bool fresh, std::uint64_t offset, const Bytes& data) {
    parts.memory.begin(fresh)->write(offset, data);
    parts.memory.begin_run(fresh);
    parts.memory.keep({test::some_stamp(), test::random_bytes(5000, 3), {}});
    parts.memory.abandon();
    parts.publisher.publish(options, {});
  };
  constexpr std::uint64_t kPages = 4 * kBootPagesInChunk;
  Bytes memory = test::random_bytes(kPages * kBootPageSize, 2);
  suspend(true, 0, memory);
  BootOrder order;
  for (std::uint64_t page = 0; page < kPages; ++page) order.pages.push_back({kMemory, (page * 37 + 5) % kPages});
  BootPackMaker maker(place.account.identity, parts.objects);
  const auto first = maker.make(order, {}, kMaxBootPages, parts.state.now().base_version);
  const Bytes changed = test::random_bytes(kBootPageSize, 4);
  suspend(false, 7 * kBootPageSize, changed);
  std::copy(changed.begin(), changed.end(), memory.begin() + 7 * kBootPageSize);
  std::reverse(order.pages.begin(), order.pages.end());

  const auto again = maker.make(order, {}, 1, parts.state.now().base_version, &first.value().root);
  HotPages pack(parts.objects.reader(), again.value().root, {});
  CHECK(pack.chunks() == 1 + 1 + 4);          // the head, the page that changed, and what is shared
  CHECK(again->objects.size() == 1 + 1 + 1);  // with the page of references
  for (std::size_t chunk = 2; chunk < pack.chunks(); ++chunk) {
    CHECK(first->objects.contains(pack.reference(chunk).cid));
    CHECK_FALSE(again->objects.contains(pack.reference(chunk).cid));
  }
  Bytes page(kBootPageSize);
  for (std::uint64_t i = 0; i < kPages; ++i) {
    REQUIRE(pack.read(kMemory, i * kBootPageSize, page));
    REQUIRE(std::equal(page.begin(), page.end(), memory.begin() + static_cast<std::ptrdiff_t>(i * kBootPageSize)));
  }
  order.pages.resize(kBootPagesInChunk / 2 - 1);
  const auto few = maker.make(order, {}, kMaxBootPages, parts.state.now().base_version, &first.value().root);
  CHECK(HotPages(parts.objects.reader(), few.value().root, {}).chunks() == 1 + 1);  // nothing is worth sharing
}

TEST_CASE("a boot pack may have as many pages as the link uploads in ten seconds, but never fewer than 1024",
          "[session]") {
  using std::chrono::seconds;
  CHECK(affordable_boot_pages(0, seconds(0)) == kMaxBootPages);
  CHECK(affordable_boot_pages(1U << 30U, seconds(100)) == kMaxBootPages);
  CHECK(affordable_boot_pages(100'000, seconds(100)) == 1024);
  CHECK(affordable_boot_pages(100U << 20U, seconds(100)) == 2 * (10U << 20U) / kBootPageSize);
}
