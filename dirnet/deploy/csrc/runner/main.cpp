#include "runner.h"

int main(int count, char** arguments) { return dirnet_runner(count, arguments); }
