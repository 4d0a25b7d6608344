#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/progress.h"

namespace isr {

struct GlobalFlags;

/// Answers go to stdout, messages to stderr. A closed stdout ends the program as SIGPIPE would (141).
class Output {
 public:
  explicit Output(const GlobalFlags& flags);

  bool json() const noexcept { return json_; }
  bool quiet() const noexcept { return quiet_; }
  void line(std::string_view text) const;               ///< stdout
  void raw(std::string_view text) const;                ///< exactly these bytes on stdout
  void document(const nlohmann::json& document) const;  ///< stdout, one line
  /// The result of a command: the text on stdout, or with --json a summary object with these fields.
  void done(std::string_view text, const nlohmann::json& fields) const;
  void note(std::string_view text) const;  ///< stderr, unless quiet
  /// "isr: warning: …" on stderr, or a warning object on stdout with --json.
  void warn(std::string_view text) const;
  void error(const Error& error) const;
  /// A table: columns padded to their widest cell, last column ragged. The first row is the header.
  void table(const std::vector<std::vector<std::string>>& rows, std::string_view indent = "  ") const;

  enum class Style { kBold, kGood, kWarn, kBad, kDim };
  std::string styled(std::string_view text, Style style) const;  ///< for stdout

 private:
  friend class Progress;
  bool json_ = false;
  bool quiet_ = false;
  bool colour_stdout_ = false;
  bool colour_stderr_ = false;
  std::string progress_;
};

/// Reports a failure as Output::error() does and returns the exit code. Never throws.
int report_failure(const GlobalFlags& flags, const Error& error) noexcept;
/// Makes untrusted text safe for a terminal: control characters and those that change the direction of text become
/// \xNN.
std::string printable(std::string_view text);

/// Progress of one long command on stderr: one live line at 10 Hz on a terminal, else one line at the start, every 30 s
/// and at the end. With --json, objects on stdout.
/// Threads: any.
class Progress {
 public:
  Progress(const Output& out, std::string title);
  ~Progress();  ///< clears the live line
  /// done and total in bytes; total 0: unknown. Has the form of ProgressFn.
  void update(std::string_view step, std::uint64_t done, std::uint64_t total);
  /// Clears the live line, so that other output can be printed.
  void clear();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Asks "[y/N]" before a loss that can be undone. --yes answers it. Error{kUsage} without a terminal, Error{kCancelled}
/// for any answer other than y.
void confirm(const GlobalFlags& flags, const std::string& question);
/// Whether confirm() can ask: false without a terminal.
bool may_ask(const GlobalFlags& flags);
/// For a loss that cannot be undone: the user must type the name, or give it with --confirm NAME. --yes is not enough.
void confirm_name(const GlobalFlags& flags, const std::string& question, const std::string& name,
                  const std::string& confirm_flag);

/// A path for people and scripts: invalid UTF-8 becomes \xNN.
std::string printable_path(const std::filesystem::path& path);
/// "4 min ago", "yesterday", "12 Mar".
std::string describe_when(WallTime time, WallTime now);

}  // namespace isr
