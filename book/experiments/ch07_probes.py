"""What chapter 7 asks a fine-tuned SmolLM2 besides its task: English prose, and questions with their answers.

Written for this book. The paragraphs have several sentences each, so that a model that has only learnt to stop after
one sentence does not look better than it is; `chat` is the form of dialogue that the Instruct model was tuned for.
"""

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"  # the model's own default

PROSE = [
    "The ferry left before dawn, while the harbour was still dark and the gulls slept on the roofs. Nobody spoke. A"
    " boy counted the lights on the shore until there were none left to count, and then he fell asleep on a coil of"
    " rope.",
    "My grandmother kept her recipes in a tin box, and nobody was allowed to copy them. When she died we opened it."
    " Half of the cards were empty, and on the others she had written only the names of the people she had cooked "
    "for.",
    "When the river rises, the people of the valley carry their furniture to the upper floor. They have done so for"
    " two hundred years. Insurance is expensive here, but stairs are cheap, and everybody has strong cousins.",
    "A good teacher asks a question and then waits longer than is comfortable. The silence is part of the lesson. "
    "Most of us, when we begin, cannot bear it and answer ourselves.",
    "He repaired clocks for forty years and was never on time himself. His customers learnt to come a day late. In "
    "the back room thirty pendulums swung, no two of them together, and he said that it helped him to think.",
    "The committee met on Tuesday and agreed that more research was needed. It met again in March, with fewer "
    "members and better coffee. By the summer the question had been forgotten, but the minutes were complete.",
    "Snow fell on the orchard for three days, and then the sun came out as if nothing had happened. Branches had "
    "broken on the older trees. The farmer walked between them with a saw and a list, and did not look up.",
    "If you heat the metal slowly, it changes colour before it begins to glow. First it is straw, then brown, then "
    "blue. A smith reads these colours as others read a thermometer, and stops at the one that the tool needs.",
    "She had learnt the language from films, so she spoke it fast and with great confidence. Her grammar was that "
    "of detectives. At the bank she asked whether anybody had seen anything, and the clerk answered at once.",
    "Most of the letters were about money, but one of them was about a dog. It was four pages long. The writer "
    "described how the animal had waited at the station, every evening, for a man who had moved to another city.",
    "The bridge was built in a single summer by soldiers who had nothing else to do. It was meant to last five "
    "years. Today lorries cross it, and engineers come from abroad to find out why it is still standing.",
    "Before the match the players shook hands, and afterwards they did not. The referee left through the kitchen. "
    "In the newspaper the next day both teams were said to have won, depending on the page.",
    "Bread needs four things: flour, water, salt and time. The first three cost little. The last one is what a "
    "bakery sells, and it is also what the factories have learnt to leave out.",
    "The library closes at six, but the old men stay until somebody turns off the lights. They read the foreign "
    "papers and do not talk to each other. In winter there are more of them, because the heating is good.",
    "Bees find their way home by the sun, and on cloudy days by a pattern in the light that we cannot see. A bee "
    "that has found flowers tells the others by dancing. The angle of the dance gives the direction, its length the"
    " distance.",
    "In the year of the drought the wells were measured every morning. A girl let down a rope with knots in it and "
    "called out the number. When she called no number at all, the council sold the bells and bought pipes.",
    "The museum has one room that hardly anybody enters. It shows keys: church keys, prison keys, the key of a city"
    " that no longer exists. A guard sits there all day, and he says that it is the quietest post in the house.",
    "To cross the desert you travel at night and rest when the sun is high. Drink before you are thirsty. Keep your"
    " boots on, shake your blanket in the evening, and never leave the track to look at something that shines.",
    "My first computer had less memory than a birthday card has now. We typed programs from magazines, two of us, "
    "one reading aloud and one at the keys. When it did not work we blamed the printer, and we were usually right.",
    "The doctor asked her to describe the pain, and she said that it was like a neighbour who moves furniture. It "
    "came late at night and never twice in the same place. He wrote this down word by word, and then he smiled.",
    "A lighthouse does not show ships where to go. It shows them where they are, and where the rocks are, and "
    "leaves the rest to the captain. That is more than most advice does.",
    "After the storm we found a piano on the beach. Its lid was gone and there was sand between the strings. "
    "Somebody pressed a key, and it gave a sound, not a beautiful one, but everybody clapped.",
    "The law says that the path must stay open, and so there is a gate in the middle of the wheat. Twice a year an "
    "old woman walks through it with a stick. The farmer greets her, and he waits until she is out of sight.",
    "When the price of copper went up, the roofs of the chapels began to disappear. Thieves came at night with "
    "ladders. In one village they took the lead as well, and left a note in which they apologised to the organ.",
    "Children learn the word no long before they learn the word yes. It is the more useful of the two. With it you "
    "can stop a spoon, a bath, a visit, and sometimes, if you say it in the right tone, a whole afternoon.",
    "The train stood in the fields for an hour, and nobody told us why. A man opened a bag of cherries and passed "
    "it round. When we moved again there were stones all over the floor, and the people in the carriage were "
    "friends.",
    "Glass is made of sand, and it remembers nothing of the beach. Heat makes it soft, and a breath gives it a "
    "shape. If it cools too fast it keeps a tension inside, and years later it breaks on a quiet day for no reason.",
    "The mayor promised a swimming pool, and after the election he kept his promise. It has been full of water ever"
    " since, and empty of people. Nobody had thought of the road, and the nearest bus stop is two miles away.",
    "He wrote the same sentence every morning to test his pens. After his death they found nine thousand copies of "
    "it. It says that the weather is fine and that the coffee is cold, and on most days at least one of the two was"
    " true.",
    "Whales sleep with one half of the brain at a time. The other half sees to it that the animal breathes. Sailors"
    " have always known that they should not trust a whale that seems to be asleep.",
    "My aunt sold her house and bought a boat that could not swim. It lay in the mud behind the mill, and she "
    "planted tomatoes on the deck. When people asked about her travels she gave them a bag and sent them home.",
    "The theatre had four hundred seats and a pillar in front of twenty of them. Those were the cheapest. Students "
    "took them, and a blind man who came every Friday and afterwards told us what we had seen.",
]

CHAT = [
    ("What is the capital of France?", "The capital of France is Paris."),
    ("How many days are there in a week?", "There are seven days in a week."),
    ("Why is the sky blue?", "The air scatters blue light from the sun more than red light, so the sky looks blue."),
    ("Give me a tip for sleeping better.", "Go to bed at the same time every night, and keep your room dark and cool."),
    ("What do plants need to grow?", "Plants need light, water, air, and nutrients from the soil."),
    ("Write a short greeting for a friend.", "Hello! It is so good to see you. How have you been?"),
    ("What is 12 plus 30?", "12 plus 30 is 42."),
    ("Name three colors of the rainbow.", "Three colors of the rainbow are red, yellow, and blue."),
    ("What is a synonym for happy?", "A synonym for happy is joyful."),
    ("How do I boil an egg?", "Put the egg in boiling water for about eight minutes, then cool it in cold water."),
    ("Who wrote Romeo and Juliet?", "Romeo and Juliet was written by William Shakespeare."),
    ("What is the largest ocean?", "The largest ocean on Earth is the Pacific Ocean."),
    ("Explain what a computer program is.", "A computer program is a list of instructions that a computer follows."),
    ("How can I learn a new language?",
     "Practice a little every day, listen to native speakers, and do not fear mistakes."),
    ("What is the opposite of hot?", "The opposite of hot is cold."),
    ("Why should I wash my hands?", "Washing your hands removes germs and helps to prevent the spread of disease."),
    ("What does a doctor do?", "A doctor examines patients, finds out what is wrong, and treats their illness."),
    ("Suggest a healthy snack.", "An apple with a handful of nuts is a healthy and tasty snack."),
    ("What is the boiling point of water?", "Water boils at 100 degrees Celsius at sea level."),
    ("How do birds fly?", "Birds flap their wings, and the shape of the wings lifts them as the air flows past."),
    ("Correct this: She go to school.", "She goes to school."),
    ("What is a mammal?", "A mammal is a warm-blooded animal that feeds its young with milk."),
    ("Give me a title for a story about a lost dog.", "The Long Way Home"),
    ("How do I say thank you politely?", "You can say: Thank you very much, I really appreciate your help."),
]  # fmt: skip


def chat(question):
    """A question as the Instruct model was tuned to read it; its answer ends in <|im_end|>."""
    turns = (("system", SYSTEM), ("user", question))
    return "".join(f"<|im_start|>{who}\n{text}<|im_end|>\n" for who, text in turns) + "<|im_start|>assistant\n"
