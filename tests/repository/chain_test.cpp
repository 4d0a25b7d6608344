#include "repository/chain.h"

#include <functional>
#include <utility>

#include "base/file.h"
#include "repository/blob_store_suite.h"
#include "repository/chain_host.h"
#include "repository/sequence.h"
#include "repository/signed_text.h"
#include "support/fault_store.h"
#include "support/memory_store.h"

namespace isr {
namespace {

using test::Host;
using test::kId;
using test::kind_thrown_by;
using test::make_head;
using test::MemoryStore;
using test::owner;
using test::text_bytes;
using Listing = MemoryStore::Listing;

void drop_heads_above(MemoryStore& store, std::uint64_t n) {
  for (std::uint64_t at = n + 1; at < n + 20; ++at) store.remove(head_name(kId, at));
}

TEST_CASE("a chain that nobody has written has no newest head", "[repository]") {
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

TEST_CASE("a hint is a hint: forged, stale, damaged or absurd, it changes no answer", "[repository]") {
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
  SECTION("also when it points at junk") {
    store->overwrite(head_name(kId, 7), text_bytes("junk"));
    store->overwrite(kId + "/latest", text_bytes("0000000000000007"));
    CHECK(writer.chain.newest()->head.n == 5);
  }
  SECTION("but a true head above a gap tells that heads are missing") {
    store->put_new(head_name(kId, 7), make_head(7, sha256(text_bytes("6"))));
    store->overwrite(kId + "/latest", text_bytes("0000000000000007"));
    CHECK(writer.newest_kind() == ErrorKind::kCorrupt);
  }
}

TEST_CASE("a repository that was rolled back is refused, with the way out", "[repository]") {
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
  SECTION("a fresh host cannot know, and takes what there is") {
    Host fresh(store);
    CHECK(fresh.chain.newest()->head.n == 3);
  }
  SECTION("after accept_older the chain goes on from there") {
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
  SECTION("nothing is published on a head that took the place of the one it follows") {
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

/// Blobs that may lie under the number behind version 3 and are no head.
std::vector<Bytes> all_junk(const StoredHead& third) {
  Head forged;
  forged.chain = kId;
  forged.n = 4;
  forged.prev = third.hash;
  forged.host = "desk-42";
  return {Bytes{}, text_bytes("junk"), test::flip_bit(third.blob, 99), third.blob,
          encode_head(forged, signing_key_from_seed({.value = {9}}))};
}

TEST_CASE("junk uses up its number: a host that has seen the version before it stops there", "[repository]") {
  const auto store = std::make_shared<MemoryStore>(GENERATE(Listing::kYes, Listing::kNo));
  Host host(store);
  host.publish_up_to(3);
  for (const Bytes& junk : all_junk(*host.chain.newest())) {
    store->overwrite(head_name(kId, 4), junk);
    const auto newest = host.chain.newest();
    CHECK(newest->head.n == 3);
    CHECK((newest->junk == std::vector<Sha256>{head_hash(junk)}));
    CHECK(host.trust->seen(kId)->n == 3);
    CHECK(kind_thrown_by([&] { host.chain.next(newest); }) == ErrorKind::kHistory);
    CHECK(kind_thrown_by([&] { host.chain.publish(4, make_head(4, newest->hash)); }) == ErrorKind::kHistory);
    Head skips;
    skips.chain = kId;
    skips.n = 5;
    skips.prev = newest->hash;
    skips.skipped = newest->junk;
    skips.host = "desk-42";
    CHECK(kind_thrown_by([&] { host.chain.publish(5, encode_head(skips, owner())); }) == ErrorKind::kHistory);
    Host fresh(store);
    CHECK(fresh.newest_kind() == ErrorKind::kHistory);
    CHECK_FALSE(fresh.trust->seen(kId).has_value());
  }
}

TEST_CASE("a damaged head that was seen is named", "[repository]") {
  const auto store = std::make_shared<MemoryStore>();
  Host host(store);
  host.publish_up_to(3);
  store->overwrite(head_name(kId, 3), test::flip_bit(store->get(head_name(kId, 3))->bytes, 99));
  CHECK(host.newest_kind() == ErrorKind::kCorrupt);
  CHECK(host.trust->seen(kId)->n == 3);
}

TEST_CASE("after accept-older the next version lies behind the junk and names it", "[repository]") {
  const auto store = std::make_shared<MemoryStore>();
  Host host(store);
  Host other(store);
  host.publish_up_to(3);
  CHECK(other.chain.newest()->head.n == 3);
  store->put_new(head_name(kId, 4), text_bytes("junk"));
  store->put_new(head_name(kId, 5), text_bytes("more"));
  const StoredHead third = host.chain.accept_older(3, "junk");
  CHECK(third.junk.size() == 2);
  const auto publish = [&] { return host.publish_next(); };

  SECTION("and every host passes it") {
    const auto sixth = publish();
    REQUIRE(sixth.has_value());
    CHECK(sixth->head.n == 6);
    CHECK((sixth->head.prev == third.hash));
    CHECK(publish()->head.n == 7);
    const auto newest = other.chain.newest();
    CHECK(newest->head.n == 7);
    CHECK(newest->junk.empty());
    CHECK((other.chain.ancestor(*newest, 3)->hash == third.hash));
    CHECK_FALSE(other.chain.ancestor(*newest, 5).has_value());
    Host fresh(store);
    CHECK(fresh.chain.newest()->head.n == 7);
  }
  SECTION("but not when the store shows other junk than it names") {
    publish();
    store->overwrite(head_name(kId, 4), text_bytes("other"));
    CHECK(other.newest_kind() == ErrorKind::kHistory);
  }
  SECTION("more junk needs another word") {
    store->put_new(head_name(kId, 6), text_bytes("even more"));
    CHECK(kind_thrown_by(publish) == ErrorKind::kHistory);
    host.chain.accept_older(3, "again");
    CHECK(publish()->head.n == 7);
  }
  SECTION("a version that was hidden behind the junk is not passed by a host that has seen it") {
    const auto first = std::make_shared<MemoryStore>();
    first->set_blobs(store->blobs());
    first->overwrite(head_name(kId, 4), make_head(4, third.hash, "laptop"));
    first->remove(head_name(kId, 5));
    const auto world = std::make_shared<MemoryStore>();
    Host laptop(world);
    world->set_blobs(first->blobs());
    CHECK(laptop.chain.newest()->head.n == 4);
    publish();
    world->set_blobs(store->blobs());
    CHECK(kind_thrown_by([&] { laptop.chain.newest(); }) == ErrorKind::kCorrupt);  // what it has seen is junk now
    world->overwrite(head_name(kId, 4), first->get(head_name(kId, 4))->bytes);
    CHECK(laptop.newest_kind() == ErrorKind::kHistory);
    CHECK(other.chain.newest()->head.n == 6);
  }
}

TEST_CASE("a store that gives something under every number is given up soon", "[repository]") {
  class EndlessStore : public MemoryStore {
   public:
    using MemoryStore::MemoryStore;
    std::optional<Blob> get(std::string_view name, std::optional<ByteRange> range, std::stop_token stop) override {
      auto blob = MemoryStore::get(name, range, stop);
      return blob ? blob : Blob{.bytes = text_bytes("something"), .age = {}};
    }
  };
  const auto honest = std::make_shared<MemoryStore>();
  const auto store = std::make_shared<EndlessStore>(GENERATE(Listing::kYes, Listing::kNo));
  Host host(store);
  Host writer(honest);
  writer.publish_up_to(3);
  store->set_blobs(honest->blobs());
  CHECK(host.newest_kind() == ErrorKind::kCorrupt);
  host.trust->accept(kId, *writer.trust->seen(kId));
  CHECK(host.newest_kind() == ErrorKind::kCorrupt);
  CHECK(host.trust->seen(kId)->n == 3);
}

TEST_CASE("a store that lists more than a list may have, or claims to have everything, is asked a few times only",
          "[repository]") {
  class LyingStore : public MemoryStore {
   public:
    using MemoryStore::MemoryStore;
    std::optional<ListPage> list_page(std::string_view prefix, std::string_view after, std::stop_token stop) override {
      if (listing == Listing::kTruth) return MemoryStore::list_page(prefix, after, stop);
      ++pages;
      ListPage page{.names = {}, .more = true};
      const std::uint64_t first = after.empty() ? 1 : *sequence_number(kId + "/heads", after) + 1;
      const std::uint64_t count = listing == Listing::kSmallPages ? 1 : 10'000;
      for (std::uint64_t n = first; n < first + count; ++n) page.names.push_back(head_name(kId, n));
      return page;
    }
    std::optional<std::uint64_t> stat(std::string_view name, std::stop_token stop) override {
      ++stats;
      return has_everything ? 9 : MemoryStore::stat(name, stop);
    }
    enum class Listing { kTruth, kSmallPages, kLargePages } listing = Listing::kTruth;
    bool has_everything = false;
    int pages = 0;
    int stats = 0;
  };
  const auto store = std::make_shared<LyingStore>();
  Host host(store);
  host.publish_up_to(5);
  SECTION("a long list is not read to its end") {
    store->listing = GENERATE(LyingStore::Listing::kSmallPages, LyingStore::Listing::kLargePages);
    CHECK(kind_thrown_by([&] { store->list(kId + "/heads/"); }) == ErrorKind::kUnsupported);
    CHECK(newest_in_sequence(*store, kId + "/heads") == 5);
    CHECK((newest_numbers(*store, kId + "/heads", 3) == std::vector<std::uint64_t>{5, 4, 3}));
    CHECK(Host(store).chain.newest()->head.n == 5);
    store->remove(kId + "/latest");
    CHECK(Host(store).newest_kind() == ErrorKind::kCorrupt);  // it lists what it does not have
    CHECK(host.chain.newest()->head.n == 5);
  }
  SECTION("a list that does not name what is there") {
    store->has_everything = true;
    CHECK(newest_numbers(*store, kId + "/heads", 100).back() == 1);
  }
  SECTION("neither list nor truth") {
    store->has_everything = true;
    store->listing = GENERATE(LyingStore::Listing::kSmallPages, LyingStore::Listing::kLargePages);
    newest_in_sequence(*store, kId + "/heads");
  }
  SECTION("a version that was seen and is gone") {
    store->remove(head_name(kId, 5));
    store->has_everything = true;
    CHECK(kind_thrown_by([&] { host.chain.newest(); }) == ErrorKind::kHistory);
  }
  CHECK(store->stats < 400);
  CHECK(store->pages < 1200);
}

TEST_CASE("one of two hosts that publish the same number wins, and the other keeps a fork", "[repository]") {
  const TempDirectory directory;
  const auto store = make_directory_store(directory.path());
  Host a(store);
  Host b(store);
  a.publish_up_to(1);
  const Sha256 first = b.chain.newest()->hash;
  for (std::uint64_t n = 2; n < 6; ++n) {
    const Sha256 prev = n == 2 ? first : a.chain.newest()->hash;
    b.chain.newest();
    const Bytes from_a = make_head(n, prev, "a");
    const Bytes from_b = make_head(n, prev, "b");
    std::optional<StoredHead> result_a;
    std::optional<StoredHead> result_b;
    {
      const std::jthread one([&] { result_a = a.chain.publish(n, from_a); });
      const std::jthread two([&] { result_b = b.chain.publish(n, from_b); });
    }
    CHECK(result_a.has_value() != result_b.has_value());
    const auto newest = a.chain.newest();
    CHECK((newest->blob == (result_a ? from_a : from_b)));
    CHECK((b.chain.newest()->hash == newest->hash));
  }
  SECTION("the fork can be found and read") {
    const Bytes lost = make_head(6, first, "b");
    const std::string name = b.chain.keep_fork(6, lost);
    CHECK_THAT(name, Catch::StartsWith("b-") && Catch::EndsWith("/6"));
    CHECK(b.chain.keep_fork(6, lost) == name);
    CHECK((a.chain.forks() == std::vector<std::string>{name}));
    CHECK((a.chain.read_fork(name)->blob == lost));
    CHECK_FALSE(a.chain.read_fork("c-0000/6").has_value());
    for (const char* bad : {"",
                            "x",
                            "x/",
                            "/6",
                            "../6",
                            "x/-1",
                            "x/0",
                            "x/99999999999999999999",
                            "x/y/6",
                            "x/6",
                            "x-/6",
                            "x-3f2/6",
                            "x-3F2A/6",
                            "-3f2a/6",
                            "x-3f2a/",
                            "x-3f2a/0",
                            "x-3f2a/0000",
                            "x/y-3f2a/6",
                            "x-3f2a/6/7",
                            "X-3f2a/6"}) {
      INFO(bad);
      CHECK(kind_thrown_by([&] { a.chain.read_fork(bad); }) == ErrorKind::kUsage);
    }
  }
}

TEST_CASE("publish loses the race when another process of this host has seen more since newest()", "[repository]") {
  const auto store = std::make_shared<MemoryStore>();
  Host host(store);
  Host laptop(store);
  host.publish_up_to(1);
  Chain other_process(store, kId, owner().public_key, host.trust);
  const auto second = [&](const std::string& name) { return make_head(2, host.chain.read(1)->hash, name); };
  const Bytes ours = second("desk-42");

  SECTION("the version of another host") {
    CHECK(laptop.publish_next("laptop")->head.n == 2);
    if (GENERATE(false, true)) CHECK(laptop.publish_next("laptop")->head.n == 3);
    other_process.newest();
    CHECK_FALSE(host.chain.publish(2, ours).has_value());
    CHECK(host.chain.newest()->head.host == "laptop");
  }
  SECTION("a version that the other process has published") {
    REQUIRE(other_process.publish(2, second("other")));
    CHECK_FALSE(host.chain.publish(2, ours).has_value());
  }
  SECTION("but not when that version is gone since, or is another one") {
    CHECK(laptop.publish_next("laptop")->head.n == 2);
    other_process.newest();
    store->overwrite(head_name(kId, 2), second("fork"));
    CHECK(kind_thrown_by([&] { host.chain.publish(2, ours); }) == ErrorKind::kHistory);
    store->remove(head_name(kId, 2));
    CHECK(kind_thrown_by([&] { host.chain.publish(2, ours); }) == ErrorKind::kHistory);
    CHECK_FALSE(store->stat(head_name(kId, 2)).has_value());
  }
  SECTION("and wins it when ours is what others have published on") {
    store->put_new(head_name(kId, 2), ours);
    CHECK(laptop.publish_next("laptop")->head.n == 3);
    other_process.newest();
    CHECK((host.chain.publish(2, ours)->blob == ours));
    CHECK(host.chain.newest()->head.n == 3);
  }
}

TEST_CASE("publish succeeds when another process of this host sees a later version before it remembers ours",
          "[repository]") {
  class WatchedStore : public MemoryStore {
   public:
    PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
      const PutResult result = MemoryStore::put_new(name, bytes, stop);
      if (const auto then = std::exchange(then_, nullptr)) then();
      return result;
    }
    std::function<void()> then_;
  };
  const auto store = std::make_shared<WatchedStore>();
  Host host(store);
  Host laptop(store);
  host.publish_up_to(1);
  Chain other_process(store, kId, owner().public_key, host.trust);
  store->then_ = [&] {
    laptop.publish_next("laptop");
    other_process.newest();
  };
  const auto second = host.publish_next();
  REQUIRE(second.has_value());
  CHECK(second->head.host == "desk-42");
  CHECK(host.chain.newest()->head.n == 3);
}

TEST_CASE("read_fork refuses another head in the place of a fork", "[repository]") {
  const auto store = std::make_shared<MemoryStore>();
  Host host(store);
  host.publish_up_to(1);
  const Bytes lost = make_head(2, host.chain.newest()->hash, "b");
  const std::string name = host.chain.keep_fork(2, lost);
  const std::string place = kId + "/forks/" + name.substr(0, name.find('/')) + "/0000000000000002";
  const auto refused = [&](const Bytes& other) {
    store->overwrite(place, other);
    return kind_thrown_by([&] { host.chain.read_fork(name); });
  };
  CHECK(refused(make_head(2, host.chain.newest()->hash, "c")) == ErrorKind::kCorrupt);
  CHECK(refused(make_head(2, sha256({}), "b")) == ErrorKind::kCorrupt);
  CHECK(refused(make_head(3, sha256({}), "b")) == ErrorKind::kCorrupt);
  CHECK(refused(test::flip_bit(lost, 99)) == ErrorKind::kCorrupt);
  store->overwrite(place, lost);
  CHECK((host.chain.read_fork(name)->blob == lost));
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

TEST_CASE("a store in which every name of a fork is taken is given up", "[repository]") {
  class TakenStore : public MemoryStore {
   public:
    PutResult put_new(std::string_view, ByteView, std::stop_token) override { return PutResult::kExists; }
  };
  Host host(std::make_shared<TakenStore>());
  CHECK(kind_thrown_by([&] { host.chain.keep_fork(6, make_head(6, sha256({}))); }) == ErrorKind::kCorrupt);
}

TEST_CASE("a fork that the store does not keep is no fork", "[repository]") {
  class ForgetfulStore : public MemoryStore {
   public:
    PutResult put_new(std::string_view, ByteView, std::stop_token) override { return PutResult::kCreated; }
  };
  Host host(std::make_shared<ForgetfulStore>());
  CHECK(kind_thrown_by([&] { host.chain.keep_fork(6, make_head(6, sha256({}))); }) == ErrorKind::kCorrupt);
}

TEST_CASE("publishing survives lost answers and reruns", "[repository]") {
  const auto memory = std::make_shared<MemoryStore>();
  const auto line = std::make_shared<test::FaultStore>(memory);
  Host host(make_resolving(line, {.attempts = 5, .first_delay = std::chrono::milliseconds(0)}));
  const Bytes first = make_head(1, {});

  SECTION("an answer lost at any point") {
    for (std::size_t k = 0; k < 4; ++k) {
      for (const test::Fault fault : {test::Fault::kBefore, test::Fault::kAfter}) {
        memory->set_blobs({});
        Host again(make_resolving(line, {.attempts = 5, .first_delay = std::chrono::milliseconds(0)}));
        std::vector<test::Fault> faults(k, test::Fault::kNone);
        faults.push_back(fault);
        line->script(faults);
        CHECK(again.chain.publish(1, first));
        CHECK(again.trust->seen(kId)->n == 1);
        line->script({});
      }
    }
  }
  SECTION("a rerun after a crash before the head was remembered") {
    memory->put_new(head_name(kId, 1), first);
    CHECK(host.chain.publish(1, first));
    CHECK(host.chain.publish(1, first));
  }
  SECTION("another host's head is not remembered as ours") {
    memory->put_new(head_name(kId, 1), make_head(1, {}, "laptop"));
    CHECK_FALSE(host.chain.publish(1, first));
    CHECK_FALSE(host.trust->seen(kId).has_value());
  }
  SECTION("junk in its place is no other host") {
    memory->put_new(head_name(kId, 1), text_bytes("junk"));
    CHECK(kind_thrown_by([&] { host.chain.publish(1, first); }) == ErrorKind::kHistory);
  }
  SECTION("a head of another number or chain is not published under this one") {
    CHECK(kind_thrown_by([&] { host.chain.publish(2, first); }) == ErrorKind::kCorrupt);
    CHECK(memory->blobs().empty());
  }
}

}  // namespace
}  // namespace isr
