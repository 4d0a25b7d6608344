// Runs a fuzz target without a fuzzer: every file of a corpus directory, then
// mutations of it. The mutations are the same each time, so that a failure can be
// repeated; ISR_FUZZ_ROUNDS sets their number. A target fails when it crashes or
// lets an exception out; the input is then in fuzz-failure.bin.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

namespace fs = std::filesystem;
using Input = std::vector<std::uint8_t>;

constexpr int kDefaultRounds = 400;
constexpr std::size_t kMaxInput = 300'000;

std::vector<Input> read_corpus(const fs::path& directory) {
  std::vector<fs::path> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.push_back(entry.path());
  std::sort(names.begin(), names.end());
  std::vector<Input> corpus;
  for (const fs::path& name : names) {
    std::ifstream in(name, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  return corpus;
}

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed) {}

  Input mutate(Input input, const std::vector<Input>& corpus) {
    for (std::size_t changes = 1 + below(4); changes > 0; --changes) change(input, corpus);
    if (input.size() > kMaxInput) input.resize(kMaxInput);
    return input;
  }

 private:
  std::size_t below(std::size_t limit) { return limit == 0 ? 0 : static_cast<std::size_t>(random_() % limit); }

  void change(Input& input, const std::vector<Input>& corpus) {
    const auto at = [&] { return input.begin() + static_cast<std::ptrdiff_t>(below(input.size() + 1)); };
    switch (below(7)) {
      case 0:  // flip a bit
        if (!input.empty()) input[below(input.size())] ^= static_cast<std::uint8_t>(1U << below(8));
        break;
      case 1:  // set a byte to a typical limit
        if (!input.empty()) input[below(input.size())] = kEdges[below(std::size(kEdges))];
        break;
      case 2: {  // set up to four bytes, as of a length, to a limit
        const std::uint8_t byte = kEdges[below(std::size(kEdges))];
        for (std::size_t i = below(input.size()), end = std::min(input.size(), i + 4); i < end; ++i) input[i] = byte;
        break;
      }
      case 3:  // cut the end off
        input.erase(at(), input.end());
        break;
      case 4: {  // remove a stretch
        const auto from = at();
        input.erase(from, from + static_cast<std::ptrdiff_t>(below(static_cast<std::size_t>(input.end() - from) + 1)));
        break;
      }
      case 5:  // insert a byte
        input.insert(at(), static_cast<std::uint8_t>(random_()));
        break;
      default: {  // continue with the rest of another input
        const Input& other = corpus[below(corpus.size())];
        const auto from = other.begin() + static_cast<std::ptrdiff_t>(below(other.size() + 1));
        input.erase(at(), input.end());
        input.insert(input.end(), from, other.end());
        break;
      }
    }
  }

  static constexpr std::uint8_t kEdges[] = {0, 1, 0x7f, 0x80, 0xff, '"', '{', '\n'};
  std::mt19937_64 random_;  // its output is fixed by the standard
};

const Input* current = nullptr;  // for the signal handler

/// Writes the input that crashed the target to a file, then dies of the same signal.
extern "C" void keep_input(int signal) {
  const int fd = ::open("fuzz-failure.bin", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd >= 0 && ::write(fd, current->data(), current->size()) >= 0) ::close(fd);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void run(const Input& input, const char* what, std::size_t number) {
  current = &input;
  try {
    LLVMFuzzerTestOneInput(input.data(), input.size());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s %zu: %s\n", what, number, error.what());
    std::abort();
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s CORPUS-DIRECTORY\n", argv[0]);
    return 2;
  }
  auto corpus = read_corpus(argv[1]);
  for (const int signal : {SIGABRT, SIGSEGV, SIGFPE}) std::signal(signal, keep_input);
  corpus.emplace_back();  // the empty input
  for (std::size_t i = 0; i < corpus.size(); ++i) run(corpus[i], "corpus file", i);
  const char* const asked = std::getenv("ISR_FUZZ_ROUNDS");  // NOLINT(concurrency-mt-unsafe): one thread
  const int rounds = asked == nullptr ? kDefaultRounds : std::atoi(asked);
  Mutator mutator(/*seed=*/1);
  std::size_t number = 0;
  for (int round = 0; round < rounds; ++round) {
    for (const Input& input : corpus) run(mutator.mutate(input, corpus), "mutation", number++);
  }
  std::printf("%zu inputs, %zu mutations\n", corpus.size(), number);
  return 0;
}
