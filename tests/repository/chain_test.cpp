#include "repository/chain.h"

#include "repository/blob_store_suite.h"
#include "repository/chain_host.h"
#include "repository/sequence.h"
#include "support/memory_store.h"

namespace isr {

using test::Host;
using test::kId;
using test::kind_thrown_by;
using test::make_head;
using test::MemoryStore;
using test::text_bytes;
using Listing = MemoryStore::Listing;

namespace {

void drop_heads_above(MemoryStore& store, std::uint64_t n) {
  for (std::uint64_t at = n + 1; at < n + 20; ++at) store.remove(head_name(kId, at));
}

}  // namespace

TEST_CASE("an empty chain has no newest head", "[repository]") {
  Host host(std::make_shared<MemoryStore>());
  CHECK_FALSE(host.chain.newest().has_value());
  CHECK_FALSE(host.chain.read(1).has_value());
  CHECK_FALSE(host.chain.read(0).has_value());
  CHECK_FALSE(host.chain.read(~std::uint64_t{0}).has_value());
}

TEST_CASE("every host finds the newest head, whatever the store can do", "[repository]") {
  const auto store = std::make_shared<MemoryStore>(GENERATE(Listing::kYes, Listing::kNo));
  Host writer(store);
  writer.publish_up_to(5);
  CHECK(store->stat(kId + "/latest").has_value());
  const bool with_hint = GENERATE(true, false);
  if (!with_hint) store->remove(kId + "/latest");

  Host fresh(store);
  CHECK(fresh.chain.newest()->head.n == 5);
  CHECK(fresh.trust->seen(kId)->n == 5);
  SECTION("and follows it") {
    writer.publish_up_to(8);
    CHECK(fresh.chain.newest()->head.n == 8);
    fresh.publish_up_to(9);
    CHECK(writer.chain.newest()->head.n == 9);
    const auto first = writer.chain.ancestor(*writer.chain.newest(), 1);
    REQUIRE(first.has_value());
    CHECK(first->head.n == 1);
    CHECK((first->blob == store->get(head_name(kId, 1))->bytes));
    CHECK(writer.chain.ancestor(*writer.chain.newest(), 9)->head.n == 9);
    CHECK_FALSE(writer.chain.ancestor(*writer.chain.newest(), 10).has_value());
    CHECK_FALSE(writer.chain.ancestor(*writer.chain.newest(), 0).has_value());
  }
}

TEST_CASE("a forged, stale, damaged or absurd hint does not change the newest head", "[repository]") {
  const auto store = std::make_shared<MemoryStore>();
  Host writer(store);
  writer.publish_up_to(5);
  for (const std::string hint :
       {"0000000000000003\n", "0000000000000003", "0000000000000000", "3", "9999999999999999\n", "0000000000000006",
        "18446744073709551615", "-000000000000001", "", "\n", "\xff\xfe"}) {
    INFO("hint " << hint);
    store->overwrite(kId + "/latest", text_bytes(hint));
    Host fresh(store);
    CHECK(fresh.chain.newest()->head.n == 5);
    CHECK(writer.chain.newest()->head.n == 5);
  }
  SECTION("even when it points at junk") {
    store->overwrite(head_name(kId, 7), text_bytes("junk"));
    store->overwrite(kId + "/latest", text_bytes("0000000000000007"));
    CHECK(writer.chain.newest()->head.n == 5);
  }
  SECTION("but a valid head above a gap shows that heads are missing") {
    store->put_new(head_name(kId, 7), make_head(7, sha256(text_bytes("6"))));
    store->overwrite(kId + "/latest", text_bytes("0000000000000007"));
    CHECK(writer.newest_kind() == ErrorKind::kCorrupt);
  }
}

TEST_CASE("a repository that was rolled back is refused, with the way out as a hint", "[repository]") {
  const auto store = std::make_shared<MemoryStore>();
  Host host(store);
  host.publish_up_to(6);
  drop_heads_above(*store, 3);
  store->overwrite(kId + "/latest", text_bytes("0000000000000003"));
  try {
    host.chain.newest();
    FAIL_CHECK("the roll-back was accepted");
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kHistory);
    CHECK_THAT(error.what(), Catch::Contains("rolled back") && Catch::Contains("version 6"));
    REQUIRE(error.hints().size() == 2);
    CHECK_THAT(error.hints()[1], Catch::Contains("isr accept-older NAME@3 --reason TEXT"));
  }
  CHECK(host.trust->seen(kId)->n == 6);

  SECTION("publishing onto it is refused too") {
    const Sha256 seen = host.trust->seen(kId)->hash;
    CHECK(kind_thrown_by([&] { host.chain.publish(7, make_head(7, seen)); }) == ErrorKind::kHistory);
    CHECK(kind_thrown_by([&] { host.chain.publish(4, make_head(4, head_hash(host.chain.read(3)->blob))); }) ==
          ErrorKind::kHistory);
    CHECK_FALSE(store->stat(head_name(kId, 7)).has_value());
    CHECK_FALSE(store->stat(head_name(kId, 4)).has_value());
  }
  SECTION("a new host cannot know, and accepts the newest head that it finds") {
    Host fresh(store);
    CHECK(fresh.chain.newest()->head.n == 3);
  }
  SECTION("after accept_older the chain continues from there") {
    CHECK(kind_thrown_by([&] { host.chain.accept_older(3, ""); }) == ErrorKind::kUsage);
    CHECK(kind_thrown_by([&] { host.chain.accept_older(5, "because"); }) == ErrorKind::kNotFound);
    CHECK(host.chain.accept_older(3, "restored from backup").head.n == 3);
    CHECK(host.chain.newest()->head.n == 3);
    host.publish_up_to(4);
    CHECK(host.chain.newest()->head.n == 4);
  }
}

TEST_CASE("a forked history is refused", "[repository]") {
  const auto store = std::make_shared<MemoryStore>();
  Host host(store);
  host.publish_up_to(3);
  const Sha256 second = head_hash(host.chain.read(2)->blob);
  const Sha256 third = head_hash(host.chain.read(3)->blob);

  SECTION("another head under the number that this host has seen") {
    store->overwrite(head_name(kId, 3), make_head(3, second, "laptop"));
    CHECK(host.newest_kind() == ErrorKind::kHistory);
  }
  SECTION("a next head that follows another one") {
    store->put_new(head_name(kId, 4), make_head(4, sha256(text_bytes("another third")), "laptop"));
    CHECK(host.newest_kind() == ErrorKind::kHistory);
    CHECK(host.trust->seen(kId)->n == 3);
    Host fresh(store);
    store->overwrite(kId + "/latest", text_bytes("0000000000000003"));
    CHECK(fresh.newest_kind() == ErrorKind::kHistory);
  }
  SECTION("a next head under an older key") {
    REQUIRE(host.chain.publish(4, make_head(4, third, "desk-42", 3)));
    store->put_new(head_name(kId, 5), make_head(5, host.trust->seen(kId)->hash, "desk-42", 2));
    CHECK(host.newest_kind() == ErrorKind::kHistory);
  }
  SECTION("a head that does not continue what this host has seen cannot be published") {
    CHECK(kind_thrown_by([&] { host.chain.publish(4, make_head(4, second)); }) == ErrorKind::kHistory);
    CHECK_FALSE(store->stat(head_name(kId, 4)).has_value());
  }
  SECTION("nothing is published after a head that replaced the one it follows") {
    store->overwrite(head_name(kId, 3), make_head(3, second, "laptop"));
    CHECK(kind_thrown_by([&] { host.chain.publish(4, make_head(4, third)); }) == ErrorKind::kHistory);
    CHECK_FALSE(store->stat(head_name(kId, 4)).has_value());
  }
  SECTION("nothing is published beyond a head that was never seen") {
    const Bytes stranger = make_head(4, sha256(text_bytes("another third")), "laptop");
    store->put_new(head_name(kId, 4), stranger);
    CHECK(kind_thrown_by([&] { host.chain.publish(5, make_head(5, head_hash(stranger))); }) == ErrorKind::kHistory);
    CHECK(host.trust->seen(kId)->n == 3);
  }
  SECTION("a hole or a stranger among the ancestors") {
    const StoredHead newest = *host.chain.newest();
    store->overwrite(head_name(kId, 2), make_head(2, sha256(text_bytes("x"))));
    CHECK(kind_thrown_by([&] { host.chain.ancestor(newest, 1); }) == ErrorKind::kHistory);
    CHECK(kind_thrown_by([&] { host.chain.ancestor(newest, 2); }) == ErrorKind::kHistory);
    CHECK(host.chain.ancestor(newest, 3)->head.n == 3);
    store->remove(head_name(kId, 2));
    CHECK(kind_thrown_by([&] { host.chain.ancestor(newest, 1); }) == ErrorKind::kHistory);
  }
}

TEST_CASE("verify_base accepts a version of the history, and nothing else", "[repository]") {
  Host host(std::make_shared<MemoryStore>());
  host.publish_up_to(3);
  const StoredHead newest = *host.chain.newest();
  const auto verify = [&](std::uint64_t n, const Sha256& hash) {
    return kind_thrown_by([&] { host.chain.verify_base(newest, n, hash); });
  };
  for (std::uint64_t n = 1; n <= 3; ++n) {
    host.chain.verify_base(newest, n, host.chain.read(n)->hash);
    CHECK(verify(n, sha256({})) == ErrorKind::kHistory);
  }
  host.chain.verify_base(newest, 0, {});
  CHECK(verify(4, newest.hash) == ErrorKind::kHistory);
}

}  // namespace isr
