variable "name" {
  description = "Name of the budget."
  type        = string
}

variable "usd" {
  description = "The month's budget."
  type        = number
}

variable "emails" {
  description = "Who is told."
  type        = list(string)
}

variable "tag" {
  description = "What is counted, as user:key$value; the tag has to be activated for cost allocation."
  type        = string
}
