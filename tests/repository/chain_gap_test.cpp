#include "repository/chain_host.h"
#include "support/error_kind.h"

/// Junk that a head names, and that is not there any more.
namespace isr {
namespace {

using test::Host;
using test::kId;
using test::kind_thrown_by;
using test::make_head;
using test::MemoryStore;
using test::text_bytes;
using Listing = MemoryStore::Listing;

struct Hosts {
  explicit Hosts(Listing listing = Listing::kYes)
      : store(std::make_shared<MemoryStore>(listing)), writer(store), behind(store) {
    writer.publish_up_to(2);
    CHECK(behind.chain.newest()->head.n == 2);
  }
  std::shared_ptr<MemoryStore> store;
  Host writer;
  Host behind;  ///< has seen version 2
};

/// Versions 1, 2, junk under 3 and 4, versions 5 and 6.
void publish_over_junk(MemoryStore& store, Host& writer) {
  writer.publish_up_to(2);
  store.put_new(head_name(kId, 3), text_bytes("junk"));
  store.put_new(head_name(kId, 4), text_bytes("more"));
  writer.chain.accept_older(2, "junk");
  REQUIRE(writer.publish_next()->head.n == 5);
  REQUIRE(writer.publish_next()->head.n == 6);
}

void remove_junk(MemoryStore& store) {
  const auto removed =
      GENERATE(std::vector<std::uint64_t>{3, 4}, std::vector<std::uint64_t>{3}, std::vector<std::uint64_t>{4});
  for (const std::uint64_t n : removed) store.remove(head_name(kId, n));
}

TEST_CASE("a host that is several versions behind passes a gap that a later head names as junk", "[repository]") {
  Hosts hosts(GENERATE(Listing::kYes, Listing::kNo));
  auto& [store, writer, behind] = hosts;
  publish_over_junk(*store, writer);
  remove_junk(*store);

  const auto newest = behind.chain.newest();
  CHECK(newest->head.n == 6);
  CHECK(newest->junk.empty());
  CHECK(Host(store).chain.newest()->head.n == 6);
  CHECK(behind.publish_next()->head.n == 7);
  CHECK(writer.chain.newest()->head.n == 7);
}

TEST_CASE("the list leads over such a gap when the hint is old or absent", "[repository]") {
  Hosts hosts;
  auto& [store, writer, behind] = hosts;
  publish_over_junk(*store, writer);
  remove_junk(*store);
  const std::string hint = GENERATE("", "0000000000000002\n", "0000000000000003\n");
  store->overwrite(kId + "/latest", text_bytes(hint));

  CHECK(Host(store).chain.newest()->head.n == 6);
  CHECK(behind.chain.newest()->head.n == 6);
  CHECK(behind.publish_next()->head.n == 7);
  CHECK(writer.chain.newest()->head.n == 7);
}

TEST_CASE("a gap that no later head names as junk is a missing version", "[repository]") {
  Hosts hosts;
  auto& [store, writer, behind] = hosts;
  const std::uint64_t last = GENERATE(4, 6, 40);
  writer.publish_up_to(last);
  const std::uint64_t there = last < 40 ? 4 : 40;
  for (std::uint64_t n = 3; n < there; ++n) store->remove(head_name(kId, n));
  if (GENERATE(true, false)) store->remove(kId + "/latest");
  try {
    behind.chain.newest();
    FAIL_CHECK("version 3 is missing");
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kCorrupt);
    CHECK_THAT(error.what(), Catch::Contains("missing"));
    REQUIRE_FALSE(error.hints().empty());
    CHECK_THAT(error.hints().back(), Catch::Contains("@" + std::to_string(there) + " "));
  }
  CHECK(behind.trust->seen(kId)->n == 2);
  behind.chain.accept_older(there, "as the hint says");
  CHECK(behind.chain.newest()->head.n == last);
}

TEST_CASE("after a gap only a head that follows is accepted, and only with the junk that it names", "[repository]") {
  const auto store = std::make_shared<MemoryStore>();
  Host writer(store);
  Host behind(store);
  writer.publish_up_to(2);
  const Sha256 second = behind.chain.newest()->hash;
  const auto junk = [](const char* text) { return head_hash(text_bytes(text)); };
  SECTION("a head that follows another second version") {
    store->put_new(head_name(kId, 4), make_head(HeadPlace{4, junk("another second"), {junk("junk")}}));
    CHECK(behind.newest_kind() == ErrorKind::kHistory);
  }
  SECTION("a head that names other junk") {
    store->put_new(head_name(kId, 5), make_head(HeadPlace{5, second, {junk("a"), junk("b")}}));
    store->put_new(head_name(kId, 4), text_bytes("c"));
    CHECK(behind.newest_kind() == ErrorKind::kHistory);
    store->overwrite(head_name(kId, 4), text_bytes("b"));
    CHECK(behind.chain.newest()->head.n == 5);
  }
  SECTION("junk after a gap is not a version") {
    store->put_new(head_name(kId, 5), text_bytes("junk"));
    store->put_new(head_name(kId, 50), text_bytes("junk"));
    CHECK(behind.chain.newest()->head.n == 2);
    CHECK(behind.publish_next()->head.n == 3);
  }
}

TEST_CASE("the way out of \"names other junk\" leads out", "[repository]") {
  Hosts hosts;
  auto& [store, writer, behind] = hosts;
  publish_over_junk(*store, writer);
  store->overwrite(head_name(kId, 4), text_bytes("other"));
  try {
    behind.chain.newest();
    FAIL_CHECK("other junk was passed");
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kHistory);
    CHECK_THAT(error.hints().back(), Catch::Contains("NAME@5 "));
  }
  behind.chain.accept_older(5, "as the hint says");
  CHECK(behind.chain.newest()->head.n == 6);
}

}  // namespace
}  // namespace isr
