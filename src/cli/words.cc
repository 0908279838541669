#include "cli/words.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <climits>
#include <cstdio>

#include "cli/outcome.h"
#include "cli/size.h"

namespace buoy::cli {

struct Words::Parser {
  CLI::App app;
};

Words::Words(const std::string& name, const std::string& what_it_does, const std::string& example)
    : name_(name), parser_(std::make_unique<Parser>()) {
  parser_->app.name(name);
  parser_->app.description(what_it_does);
  parser_->app.footer("Example: " + example);
}

Words::~Words() = default;

void Words::take_pid(int* pid) {
  parser_->app.add_option("PID", *pid, "a `buoy run`, or one process in it (`buoy ps` lists both)")
      ->type_name("")
      ->required()
      ->check(CLI::Range(1, INT_MAX, "a process id"));
}

void Words::take_size(const std::string& name, ByteSize* bytes, const std::string& text) {
  const auto read = [bytes](const std::string& word) {
    const std::optional<ByteSize> size = parse_size(word);
    if (!size)
      throw CLI::ValidationError("'" + word + "' is not a size: bytes, or with K, M or G, as 256M");
    *bytes = *size;
  };
  parser_->app.add_option_function<std::string>(name, read, text)->type_name("SIZE")->required();
}

void Words::take_flag(const std::string& name, bool* is_said, const std::string& text) {
  parser_->app.add_flag(name, *is_said, text);
}

void Words::take_seconds(const std::string& name, double* seconds, const std::string& text) {
  constexpr double kLeast = 0.1;
  constexpr double kMost = 86400;
  parser_->app.add_option(name, *seconds, text)
      ->type_name("SECONDS")
      ->check(CLI::Range(kLeast, kMost, "0.1 to 86400"));
}

void Words::take_text(const std::string& name, const std::string& kind, std::string* word,
                      const std::string& text) {
  parser_->app.add_option(name, *word, text)->type_name(kind);
}

void Words::take_texts(const std::string& name, const std::string& kind,
                       std::vector<std::string>* words, const std::string& text) {
  parser_->app.add_option(name, *words, text)->type_name(kind)->expected(1)->take_all();
}

void Words::exclude(const std::string& one, const std::string& other) {
  parser_->app.get_option(one)->excludes(parser_->app.get_option(other));
}

std::optional<int> Words::parse(std::vector<std::string> words) {
  std::reverse(words.begin(), words.end());  // as CLI11 wants them
  try {
    parser_->app.parse(std::move(words));
  } catch (const CLI::CallForHelp&) {
    std::fputs(parser_->app.help().c_str(), stdout);
    return 0;
  } catch (const CLI::ParseError& error) {
    std::string why = error.what();
    std::replace(why.begin(), why.end(), '\n', ' ');
    say(name_.substr(name_.find(' ') + 1) + ": " + why + "; see `" + name_ + " --help`");
    return kUsage;
  }
  return std::nullopt;
}

}  // namespace buoy::cli
